package model

import "github.com/dreamfleet/dreamfleet/model/internal/kernel"

// core is the sequence model h' = f(h, z, a): the block-diagonal GRU of
// DreamerV3. Deterministic state, stochastic state and action each pass a
// hidden layer; every block of the GRU sees its own slice of h and all of the
// three:
//
//	x  = [layer(h) | layer(z) | layer(a)]
//	y  = silu(norm(x·Wx + blockdiag(h)·Wh + b))
//	r, c, u = blockdiag(y)·Wr, Wc, Wu + b
//	h' = σ(u-1)·tanh(σ(r)·c) + (1-σ(u-1))·h
type core struct {
	cfg    *Config
	in     [3]*layer // of deter, stoch, action
	mix    *layer    // its parts are the three inputs; h enters through mixH
	mixH   blockLinear
	gates  [3]blockLinear // reset, candidate, update
	biases [3]span
	params []float32
}

// blockLinear is a block-diagonal square matrix: Blocks blocks of size×size.
type blockLinear struct {
	w        span
	size     int
	fwd, bwd []kernel.Packed
}

func (l *layout) block(name string, fanIn int, c *Config) blockLinear {
	size := c.Deter / c.Blocks
	return blockLinear{
		w: l.add(name+"/kernel", kindKernel, fanIn, 1, c.Blocks, size, size), size: size,
		fwd: make([]kernel.Packed, c.Blocks), bwd: make([]kernel.Packed, c.Blocks),
	}
}

func (b *blockLinear) load(params []float32, backward bool) {
	w := b.w.of(params)
	for g := range b.fwd {
		m := w[g*b.size*b.size : (g+1)*b.size*b.size]
		b.fwd[g].Pack(false, b.size, b.size, m, b.size)
		if backward {
			b.bwd[g].Pack(true, b.size, b.size, m, b.size)
		}
	}
}

// start writes the bias and x times the matrix to y; both are rows × (Blocks·size).
func (b *blockLinear) start(y, x, bias []float32) {
	ld := b.size * len(b.fwd)
	for g := range b.fwd {
		kernel.GemmPackedFrom(len(x)/ld, x[g*b.size:], ld, &b.fwd[g], y[g*b.size:], ld, bias[g*b.size:(g+1)*b.size], 0)
	}
}

// forward adds x times the matrix to y.
func (b *blockLinear) forward(y, x []float32) { b.run(y, x, b.fwd, true) }

// back computes dy times the transposed matrix in dx, or adds it.
func (b *blockLinear) back(dx, dy []float32, acc bool) { b.run(dx, dy, b.bwd, acc) }

func (b *blockLinear) run(y, x []float32, m []kernel.Packed, acc bool) {
	ld := b.size * len(m)
	for g := range m {
		kernel.GemmPacked(len(x)/ld, x[g*b.size:], ld, &m[g], y[g*b.size:], ld, acc)
	}
}

func (b *blockLinear) grad(grad, x, dy []float32) {
	dw := b.w.of(grad)
	ld := b.size * len(b.fwd)
	for g := range b.fwd {
		kernel.Gemm(true, false, b.size, b.size, len(x)/ld, x[g*b.size:], ld, dy[g*b.size:], ld,
			dw[g*b.size*b.size:(g+1)*b.size*b.size], b.size, false)
	}
}

func (l *layout) core(c *Config) *core {
	k := &core{cfg: c}
	k.in[0] = l.hidden("deter", c.Hidden, c.Deter)
	k.in[1] = l.hidden("stoch", c.Hidden, c.StochLen())
	k.in[2] = l.hidden("action", c.Hidden, c.Actions)
	// Each unit of the mixing layer sums over the three inputs and over its
	// own block of h; both kernels are scaled for that fan-in.
	size := c.Deter / c.Blocks
	fan := 3*c.Hidden + size
	k.mix = l.hidden("mix", c.Deter, c.Hidden, c.Hidden, c.Hidden)
	l.specs[len(l.specs)-3].fanIn = fan
	k.mixH = l.block("mix_deter", fan, c)
	for i, name := range []string{"reset", "candidate", "update"} {
		k.gates[i] = l.block(name, size, c)
		k.biases[i] = l.add(name+"/bias", kindBias, 0, 0, c.Deter)
	}
	return k
}

// packs are the jobs that load all layers from *params.
func (k *core) packs(params *[]float32, backward bool) []func() {
	list := packs(append(k.in[:], k.mix), params, backward)
	for _, b := range append(k.gates[:], k.mixH) {
		list = append(list, func() { b.load(*params, backward) })
	}
	return append(list, func() { k.params = *params })
}

// coreCache is the activations of the core over some rows. The caller fills
// from (the states before the step) and action, and reads next.
type coreCache struct {
	from   States
	action []int32
	next   []float32 // rows × Deter

	in      [3]*cache
	mix     *cache
	gates   gruCache
	dmix    []float32
	dhidden []float32 // scratch: gradient of an input layer's output
}

func newCoreCache(c *Config, rows, rowBlock int, backward bool) *coreCache {
	k := &coreCache{
		from: NewStates(*c, rows), action: make([]int32, rows), next: make([]float32, rows*c.Deter),
		mix: newCache(rows, rowBlock, c.Deter, backward),
	}
	for i := range k.in {
		k.in[i] = newCache(rows, rowBlock, c.Hidden, backward)
	}
	k.gates = newGRUCache(rows, c.Deter)
	if backward {
		k.dmix = make([]float32, rows*c.Deter)
		k.dhidden = make([]float32, rows*c.Hidden)
	}
	return k
}

// gruCache is what the element-wise part of a GRU keeps over some rows: the
// candidate before its activation, and the activations, whose place the
// gradients of all three pre-activations take. Reset and update are activated in
// place.
type gruCache struct {
	n    int
	cand []float32    // rows × n
	act  [3][]float32 // reset, candidate, update
}

func newGRUCache(rows, n int) gruCache {
	g := gruCache{n: n, cand: make([]float32, rows*n)}
	for i := range g.act {
		g.act[i] = make([]float32, rows*n)
	}
	return g
}

// preRows is where the pre-activations of a gate are to be written.
func (g *gruCache) preRows(gate, lo, hi int) []float32 {
	if gate == 1 {
		return g.cand[lo*g.n : hi*g.n]
	}
	return g.act[gate][lo*g.n : hi*g.n]
}

// dpreRows is where back leaves the gradient of a gate's pre-activations.
func (g *gruCache) dpreRows(gate, lo, hi int) []float32 { return g.act[gate][lo*g.n : hi*g.n] }

// forward computes the state after h.
func (g *gruCache) forward(next, h []float32, lo, hi int) {
	r, c, u := g.dpreRows(0, lo, hi), g.dpreRows(1, lo, hi), g.dpreRows(2, lo, hi)
	kernel.GRU(next, h, r, g.preRows(1, lo, hi), u, r, c, u)
}

// back takes the gradient of the state after h and adds that of h to dh.
func (g *gruCache) back(dh, dnext, h []float32, lo, hi int) {
	r, c, u := g.dpreRows(0, lo, hi), g.dpreRows(1, lo, hi), g.dpreRows(2, lo, hi)
	kernel.GRUBackward(dh, r, c, u, dnext, h, g.preRows(1, lo, hi), r, c, u)
}

// forward advances rows [lo, hi).
func (k *core) forward(a *coreCache, lo, hi int) {
	c := k.cfg
	d := c.Deter
	from := a.from.Rows(*c, lo, hi)
	for i, l := range k.in {
		pre := a.in[i].preRows(lo, hi)
		switch i {
		case 0:
			l.start(0, pre, from.Deter, d)
		case 1:
			l.begin(pre)
			l.stoch(0, pre, from.Stoch, c)
		case 2:
			l.begin(pre)
			l.oneHot(0, pre, a.action[lo:hi], 1)
		}
		l.activate(a.in[i], lo, hi)
	}
	pre := a.mix.preRows(lo, hi)
	k.mix.start(0, pre, a.in[0].yRows(lo, hi), c.Hidden)
	for i := 1; i < len(k.in); i++ {
		k.mix.dense(i, pre, a.in[i].yRows(lo, hi), c.Hidden)
	}
	k.mixH.forward(pre, from.Deter)
	k.mix.activate(a.mix, lo, hi)
	y := a.mix.yRows(lo, hi)
	for i := range k.gates {
		k.gates[i].start(a.gates.preRows(i, lo, hi), y, k.biases[i].of(k.params))
	}
	a.gates.forward(a.next[lo*d:hi*d], from.Deter, lo, hi)
}

// back takes the gradient of next in rows [lo, hi) and adds the gradients of
// the states before the step to dfrom and dz (dense). Weight gradients are
// left to grad, which forms them over all rows at once.
func (k *core) back(a *coreCache, dnext, dfrom, dz []float32, lo, hi, block int) {
	c := k.cfg
	d, h := c.Deter, c.Hidden
	s, e := lo*d, hi*d
	a.gates.back(dfrom, dnext, a.from.Deter[s:e], lo, hi)
	dy := a.dmix[s:e]
	for i := range k.gates {
		k.gates[i].back(dy, a.gates.dpreRows(i, lo, hi), i > 0)
	}
	dpre := k.mix.activateBack(a.mix, dy, lo, hi, block)
	k.mixH.back(dfrom, dpre, true)
	dx := a.dhidden[lo*h : hi*h]
	for i, l := range k.in {
		k.mix.denseBack(i, dx, h, dpre, false)
		din := l.activateBack(a.in[i], dx, lo, hi, block)
		switch i {
		case 0:
			l.denseBack(0, dfrom, d, din, true)
		case 1:
			l.denseBack(0, dz, c.StochLen(), din, true)
		}
	}
}

// grads are the jobs that write the gradients of all weights, summed over all
// rows, to *grad.
func (k *core) grads(a *coreCache, grad *[]float32) []func() {
	c := k.cfg
	list := []func(){
		func() { k.in[0].denseGrad(*grad, 0, a.from.Deter, c.Deter, a.in[0].pre) },
		func() { k.mixH.grad(*grad, a.from.Deter, a.mix.pre) },
		func() { k.in[1].stochGrad(*grad, 0, a.from.Stoch, c, a.in[1].pre) },
	}
	for i := range k.gates {
		list = append(list, func() { k.gates[i].grad(*grad, a.mix.y, a.gates.act[i]) })
	}
	for i := range k.in {
		list = append(list, func() { k.mix.denseGrad(*grad, i, a.in[i].y, c.Hidden, a.mix.pre) })
	}
	return append(list, func() {
		k.in[2].oneHotGrad(*grad, 0, a.action, 1, a.in[2].pre)
		for i, l := range k.in {
			l.biasGrad(*grad, a.in[i].pre)
			l.scaleGrad(a.in[i], *grad)
		}
		k.mix.biasGrad(*grad, a.mix.pre)
		k.mix.scaleGrad(a.mix, *grad)
		for i, dpre := range a.gates.act {
			kernel.ColumnSums(k.biases[i].of(*grad), dpre, c.Deter, len(dpre)/c.Deter, c.Deter, false)
		}
	})
}
