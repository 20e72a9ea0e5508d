package model

import (
	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// layer is a linear map of the concatenation of its inputs, followed for a
// hidden layer by RMS norm and SiLU:
//
//	pre = Σ_i x_i·W_i + b        y = silu(pre / rms(pre) · scale)
//
// W is one kernel whose rows are split among the inputs, so that an input can
// be dense or a set of one-hot vectors without ever being concatenated.
type layer struct {
	out   int
	parts []part
	b     span
	scale span // empty for an output layer

	params []float32 // the module's memory as of the last load
}

type part struct {
	in       int
	w        span
	fwd, bwd kernel.Packed
}

func (l *layout) hidden(name string, out int, in ...int) *layer {
	n := l.linear(name, 1, out, in...)
	n.scale = l.add(name+"/scale", kindScale, 0, 0, out)
	return n
}

func (l *layout) linear(name string, gain float64, out int, in ...int) *layer {
	total := 0
	for _, n := range in {
		total += n
	}
	w := l.add(name+"/kernel", kindKernel, total, gain, total, out)
	n := &layer{out: out, b: l.add(name+"/bias", kindBias, 0, 0, out)}
	at := w.off
	for _, k := range in {
		n.parts = append(n.parts, part{in: k, w: span{at, k * out}})
		at += k * out
	}
	return n
}

// load packs the weights for the GEMM: as they are for the forward step and,
// if asked, transposed for the backward one. Until the next load the module's
// memory must not change.
func (l *layer) load(params []float32, backward bool) {
	l.params = params
	for i := range l.parts {
		p := &l.parts[i]
		w := p.w.of(params)
		p.fwd.Pack(false, p.in, l.out, w, l.out)
		if backward {
			p.bwd.Pack(true, l.out, p.in, w, l.out)
		}
	}
}

// begin writes the bias to every row of pre.
func (l *layer) begin(pre []float32) {
	for bias := l.b.of(l.params); len(pre) > 0; pre = pre[l.out:] {
		copy(pre, bias)
	}
}

// start is begin and dense at once.
func (l *layer) start(i int, pre, x []float32, ldx int) {
	kernel.GemmPackedFrom(len(pre)/l.out, x, ldx, &l.parts[i].fwd, pre, l.out, l.b.of(l.params), 0)
}

// startFrom is start with other rows than the bias.
func (l *layer) startFrom(i int, pre, x []float32, ldx int, from []float32) {
	kernel.GemmPackedFrom(len(pre)/l.out, x, ldx, &l.parts[i].fwd, pre, l.out, from, l.out)
}

// dense adds x·W_i to pre, for as many rows as pre has.
func (l *layer) dense(i int, pre, x []float32, ldx int) {
	kernel.GemmPacked(len(pre)/l.out, x, ldx, &l.parts[i].fwd, pre, l.out, true)
}

// oneHot adds the rows of W_i that the s one-hot vectors of each row select;
// a negative index selects nothing and speaks for its whole row.
func (l *layer) oneHot(i int, pre []float32, idx []int32, s int) {
	w := l.parts[i].w.of(l.params)
	classes := l.parts[i].in / s
	eachRun(idx, s, func(lo, hi int) {
		kernel.GatherRows(pre[lo*l.out:], l.out, idx[lo*s:hi*s], hi-lo, s, w, l.out, classes)
	})
}

// stoch adds the contribution of a stochastic state.
func (l *layer) stoch(i int, pre []float32, z Latents, c *Config) {
	if c.Gaussian {
		l.dense(i, pre, z.Value, c.StochLen())
		return
	}
	l.oneHot(i, pre, z.Index, c.Stoch)
}

// denseBack computes dx = dpre·W_iᵀ, or adds it.
func (l *layer) denseBack(i int, dx []float32, ldx int, dpre []float32, acc bool) {
	kernel.GemmPacked(len(dpre)/l.out, dpre, l.out, &l.parts[i].bwd, dx, ldx, acc)
}

// denseGrad writes dW_i = xᵀ·dpre over all rows.
func (l *layer) denseGrad(grad []float32, i int, x []float32, ldx int, dpre []float32) {
	p := &l.parts[i]
	kernel.Gemm(true, false, p.in, l.out, len(dpre)/l.out, x, ldx, dpre, l.out, p.w.of(grad), l.out, false)
}

// oneHotGrad writes the same for one-hot inputs.
func (l *layer) oneHotGrad(grad []float32, i int, idx []int32, s int, dpre []float32) {
	p := &l.parts[i]
	dw := p.w.of(grad)
	clear(dw)
	eachRun(idx, s, func(lo, hi int) {
		kernel.ScatterRows(dw, l.out, p.in/s, idx[lo*s:hi*s], hi-lo, s, dpre[lo*l.out:], l.out)
	})
}

func (l *layer) stochGrad(grad []float32, i int, z Latents, c *Config, dpre []float32) {
	if c.Gaussian {
		l.denseGrad(grad, i, z.Value, c.StochLen(), dpre)
		return
	}
	l.oneHotGrad(grad, i, z.Index, c.Stoch, dpre)
}

func (l *layer) biasGrad(grad, dpre []float32) {
	kernel.ColumnSums(l.b.of(grad), dpre, l.out, len(dpre)/l.out, l.out, false)
}

// eachRun calls f for the maximal runs of rows whose first index is not
// negative. idx has s indices a row.
func eachRun(idx []int32, s int, f func(lo, hi int)) {
	rows := len(idx) / s
	for lo := 0; lo < rows; {
		if idx[lo*s] < 0 {
			lo++
			continue
		}
		hi := lo + 1
		for hi < rows && idx[hi*s] >= 0 {
			hi++
		}
		f(lo, hi)
		lo = hi
	}
}

// cache keeps what the backward step of a hidden layer needs, over all rows
// of a batch. That step puts the gradient of pre in its place: with memory of
// its own for it size M took a fifth more.
type cache struct {
	n              int
	pre, y, inv    []float32
	dscale         []float32 // one partial sum for each block of rows
	rows, rowBlock int
}

// newCache makes room for rows rows that are processed in blocks of rowBlock.
// The partial sums of the norm's gradient belong to blocks, not to threads, so
// that results do not depend on the number of threads.
func newCache(rows, rowBlock, n int, backward bool) *cache {
	c := &cache{
		n: n, rows: rows, rowBlock: rowBlock,
		pre: make([]float32, rows*n), y: make([]float32, rows*n), inv: make([]float32, rows),
	}
	if backward {
		c.dscale = make([]float32, blocks(rows, rowBlock)*n)
	}
	return c
}

func blocks(rows, block int) int { return (rows + block - 1) / block }

func (c *cache) preRows(lo, hi int) []float32 { return c.pre[lo*c.n : hi*c.n] }
func (c *cache) yRows(lo, hi int) []float32   { return c.y[lo*c.n : hi*c.n] }

// activate computes y from pre in rows [lo, hi).
func (l *layer) activate(c *cache, lo, hi int) {
	kernel.RMSNormSiLU(c.yRows(lo, hi), c.inv[lo:hi], c.preRows(lo, hi), l.scale.of(l.params), hi-lo, c.n)
}

// activateBack replaces pre in rows [lo, hi) by its gradient, given that of y,
// returns it, and adds to the scale gradients of their blocks, the first of which
// is given. dy is used as scratch.
func (l *layer) activateBack(c *cache, dy []float32, lo, hi, block int) (dpre []float32) {
	pre := c.preRows(lo, hi)
	for at := lo; at < hi; block++ {
		end := min(at+c.rowBlock, hi)
		kernel.RMSNormSiLUBackward(c.preRows(at, end), c.dscale[block*c.n:(block+1)*c.n], dy[(at-lo)*c.n:(end-lo)*c.n],
			c.inv[at:end], l.scale.of(l.params), end-at, c.n)
		at = end
	}
	return pre
}

// scaleGrad sums the blocks' partial gradients in their order.
func (l *layer) scaleGrad(c *cache, grad []float32) {
	kernel.ColumnSums(l.scale.of(grad), c.dscale, c.n, len(c.dscale)/c.n, c.n, false)
}
