package model

import "github.com/dreamfleet/dreamfleet/model/internal/kernel"

// Pool is a fixed set of threads that share the rows of a batch.
type Pool = kernel.Pool

// NewPool starts a pool of so many threads, the caller's included. Close ends
// it. Results do not depend on the number of threads.
func NewPool(threads int) *Pool { return kernel.NewPool(threads) }

// Kernels names the vectorised loops in use: avx512, avx2 or portable. The error
// says that the environment variable DREAMFLEET_KERNEL asks for ones that this
// machine lacks; the portable ones are in use then.
func Kernels() (string, error) { return kernel.Path() }

// Flops is the number of floating-point operations that all products of
// matrices have made since the process began. Products with categorical
// latents are sums of kernel rows and do not count.
func Flops() uint64 { return kernel.Flops() }

// PeakFlops runs multiply-adds on registers alone and returns how many
// floating-point operations that were; 0 where there are no vectorised loops.
func PeakFlops(rounds int) int { return kernel.PeakFlops(rounds) }

// blockRows is the number of rows that one thread takes through a whole network,
// or a whole rollout, at a time: a sixteenth of them, so that up to sixteen
// threads find work, within bounds. With 32 rows the products reach their speed
// where the weights stay in the second-level cache; where they come from further
// away (size S has 8 MB of them), 64 and 128 rows made a train step 4 to 6 %
// faster; and with more the activations do not stay there.
func blockRows(rows int) int { return min(max((rows/16+7)&^7, 32), 128) }

// Input is what a head reads: dense vectors, beside which a memory may lie, or
// model states.
type Input struct {
	Vector []float32 // rows × width, or nil
	Memory []float32 // rows × width, for a head that has one
	States States
}

// MLP runs an encoder or a head on a fixed number of rows, forward and
// backward. It owns its activations and allocates nothing after NewMLP.
type MLP struct {
	cfg    Config
	train  bool // Backward may be called
	net    *mlp
	rows   int
	block  int // rows that one thread takes at a time
	pool   *Pool
	caches []*cache
	dout   []float32
	packs  *jobs
	grads  *jobs

	// Arguments of the running step, so that the pool's functions are fixed.
	params          []float32
	input           Input
	out, grad       []float32
	dx, dz          []float32
	forwardF, backF func(thread, b int)
	dyScratch       []float32
}

// NewMLP makes a runner of the named module's network over rows rows.
func NewMLP(c Config, module string, rows int, pool *Pool) *MLP {
	return newMLP(c, module, rows, pool, true)
}

// NewFrozenMLP makes a runner that has no Backward, and neither the packed
// weights for it nor activations of more rows than are on their way.
func NewFrozenMLP(c Config, module string, rows int, pool *Pool) *MLP {
	return newMLP(c, module, rows, pool, false)
}

func newMLP(c Config, module string, rows int, pool *Pool, train bool) *MLP {
	nets := newNetworks(c)
	net := nets.heads[module]
	switch module {
	case Encoder:
		net = nets.encoder
	case Prior:
		net = nets.prior
	}
	return newRunner(c, net, rows, pool, train)
}

func newRunner(c Config, net *mlp, rows int, pool *Pool, train bool) *MLP {
	m := &MLP{cfg: c, net: net, train: train, rows: rows, pool: pool}
	m.block = blockRows(rows)
	scratchRows := pool.Threads() * m.block
	kept := scratchRows
	if train {
		kept = rows
	}
	widest := 0
	for _, l := range m.net.hidden {
		m.caches = append(m.caches, newCache(kept, m.block, l.out, train))
		widest = max(widest, l.out)
	}
	if train {
		m.dyScratch = make([]float32, scratchRows*widest)
	}
	m.packs = newJobs(pool, m.net.packs(&m.params, train))
	m.grads = newJobs(pool, m.gradJobs())
	m.forwardF, m.backF = m.forwardBlock, m.backBlock
	return m
}

// OutLen is the width of an output row.
func (m *MLP) OutLen() int {
	if m.net.out != nil {
		return m.net.out.out
	}
	return m.net.hidden[len(m.net.hidden)-1].out
}

// Forward writes rows × OutLen to out.
func (m *MLP) Forward(params []float32, in Input, out []float32) {
	m.params, m.input, m.out = params, in, out
	m.packs.run()
	m.pool.Deal(blocks(m.rows, m.block), m.forwardF)
}

func (m *MLP) forwardBlock(thread, b int) {
	lo, hi := b*m.block, min((b+1)*m.block, m.rows)
	at, end := lo, hi // of the activations
	if !m.train {
		at, end = thread*m.block, thread*m.block+hi-lo
	}
	for i, l := range m.net.hidden {
		c := m.caches[i]
		pre := c.preRows(at, end)
		if i == 0 {
			m.first(l, pre, lo, hi)
		} else {
			l.start(0, pre, m.caches[i-1].yRows(at, end), l.parts[0].in)
		}
		l.activate(c, at, end)
	}
	last := m.caches[len(m.caches)-1].yRows(at, end)
	n := m.OutLen()
	out := m.out[lo*n : hi*n]
	if m.net.out == nil {
		copy(out, last)
		return
	}
	m.net.out.start(0, out, last, m.net.out.parts[0].in)
	if m.net.joint != nil {
		m.net.joint.add(out, m.input.States.Stoch.rows(&m.cfg, lo, hi).Index)
	}
}

func (m *MLP) first(l *layer, pre []float32, lo, hi int) {
	n := l.parts[0].in
	if m.input.Vector != nil {
		l.start(0, pre, m.input.Vector[lo*n:hi*n], n)
		if len(l.parts) > 1 {
			w := l.parts[1].in
			l.dense(1, pre, m.input.Memory[lo*w:hi*w], w)
		}
		return
	}
	s := m.input.States
	l.start(0, pre, s.Deter[lo*n:hi*n], n)
	if len(l.parts) > 1 {
		l.stoch(1, pre, s.Stoch.rows(&m.cfg, lo, hi), &m.cfg)
	}
}

// Backward takes the gradient of the last Forward's output and writes the
// parameters' gradient to grad. Where dx is not nil the gradient of the vectors
// or deterministic states is added to it, and to dz that of the memory or the
// dense stochastic states.
func (m *MLP) Backward(dout, grad, dx, dz []float32) {
	m.dout, m.dx, m.dz = dout, dx, dz
	for _, c := range m.caches {
		clear(c.dscale)
	}
	m.pool.Deal(blocks(m.rows, m.block), m.backF)

	m.grad = grad
	m.grads.run()
}

// gradJobs are the jobs that write the gradients of all weights to m.grad.
func (m *MLP) gradJobs() []func() {
	var list []func()
	if out := m.net.out; out != nil {
		last := m.caches[len(m.caches)-1]
		list = append(list, func() { out.denseGrad(m.grad, 0, last.y, last.n, m.dout) },
			func() { out.biasGrad(m.grad, m.dout) })
	}
	if j := m.net.joint; j != nil {
		list = append(list, j.grads(&m.grad, func() []int32 { return m.input.States.Stoch.Index }, &m.dout)...)
	}
	for i, l := range m.net.hidden {
		c := m.caches[i]
		list = append(list, func() {
			x := m.input.Vector
			switch {
			case i > 0:
				x = m.caches[i-1].y
			case x == nil:
				x = m.input.States.Deter
			}
			l.denseGrad(m.grad, 0, x, l.parts[0].in, c.pre)
		})
		if len(l.parts) > 1 {
			list = append(list, func() {
				if x := m.input.Memory; x != nil {
					l.denseGrad(m.grad, 1, x, l.parts[1].in, c.pre)
					return
				}
				l.stochGrad(m.grad, 1, m.input.States.Stoch, &m.cfg, c.pre)
			})
		}
		list = append(list, func() {
			l.biasGrad(m.grad, c.pre)
			l.scaleGrad(c, m.grad)
		})
	}
	return list
}

func (m *MLP) backBlock(thread, b int) {
	n := m.OutLen()
	lo, hi := b*m.block, min((b+1)*m.block, m.rows)
	at := thread * m.block // of the scratch
	end := at + hi - lo
	dout := m.dout[lo*n : hi*n]
	w := m.caches[len(m.caches)-1].n
	dy := m.dyScratch[at*w : end*w]
	if m.net.out != nil {
		m.net.out.denseBack(0, dy, w, dout, false)
	} else {
		copy(dy, dout)
	}
	for i := len(m.net.hidden) - 1; i >= 0; i-- {
		l := m.net.hidden[i]
		dpre := l.activateBack(m.caches[i], dy, lo, hi, b)
		w := l.parts[0].in
		if i > 0 {
			dy = m.dyScratch[at*w : end*w]
			l.denseBack(0, dy, w, dpre, false)
			continue
		}
		if m.dx != nil {
			l.denseBack(0, m.dx[lo*w:hi*w], w, dpre, true)
		}
		if m.dz != nil && len(l.parts) > 1 {
			w := l.parts[1].in
			l.denseBack(1, m.dz[lo*w:hi*w], w, dpre, true)
		}
	}
}

// Rows is the number of rows that the runner was made for.
func (m *MLP) Rows() int { return m.rows }
