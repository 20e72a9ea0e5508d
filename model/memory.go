package model

import "github.com/dreamfleet/dreamfleet/model/internal/kernel"

// Recurrence is what an actor-critic's memory reads besides the observations: B
// sequences of T steps, time-major (row t·B + b).
type Recurrence struct {
	Start      []float32 // B × StateLen, before the first step
	First      []bool    // T·B: the state is reset before this step
	PrevAction []int32   // T·B: the action that led here, -1 where there is none
}

// memoryCache is the activations of the memory over some rows.
type memoryCache struct {
	in     *cache
	gates  gruCache
	state  []float32 // rows × StateLen, before the step
	action []int32
}

func newMemoryCache(c *ActorCriticConfig, rows, rowBlock int, backward bool) *memoryCache {
	return &memoryCache{
		in: newCache(rows, rowBlock, c.Units, backward), gates: newGRUCache(rows, c.MemoryUnits),
		state: make([]float32, rows*c.MemoryUnits), action: make([]int32, rows),
	}
}

// sense runs what does not depend on the state, in rows [lo, hi).
func (m *memoryNet) sense(a *memoryCache, obs []float32, lo, hi int) {
	w := m.in.parts[0].in
	m.in.start(0, a.in.preRows(lo, hi), obs[lo*w:hi*w], w)
	m.in.activate(a.in, lo, hi)
	for i, l := range m.gru {
		pre := a.gates.preRows(i, lo, hi)
		l.start(0, pre, a.in.yRows(lo, hi), l.parts[0].in)
		l.oneHot(1, pre, a.action[lo:hi], 1)
	}
}

// recur writes the states after rows [lo, hi) to next.
func (m *memoryNet) recur(a *memoryCache, next []float32, lo, hi int) {
	n := a.gates.n
	state := a.state[lo*n : hi*n]
	for i, l := range m.gru {
		l.dense(2, a.gates.preRows(i, lo, hi), state, n)
	}
	a.gates.forward(next, state, lo, hi)
}

// Remember runs an actor-critic's memory along sequences, forward and backward
// through time. Only the chain of states is computed step by step.
type Remember struct {
	cfg  ActorCriticConfig
	t, b int
	pool *Pool
	net  memoryNet
	a    *memoryCache

	packs, grads     *jobs
	params, grad     []float32
	obs, next, dnext []float32
	seq              *Recurrence
	dx               []float32 // of the input layer's outputs
	carry            []float32

	senseF, scanF, backF, dsenseF func(lo, hi int)
}

// NewRemember makes a runner for b sequences of t steps.
func NewRemember(c ActorCriticConfig, t, b int, pool *Pool) *Remember {
	rows := t * b
	r := &Remember{
		cfg: c, t: t, b: b, pool: pool, net: newActorCritic(c).memory, a: newMemoryCache(&c, rows, embedUnit, true),
		dx: make([]float32, rows*c.Units), carry: make([]float32, b*c.MemoryUnits),
	}
	r.packs = newJobs(pool, r.net.packs(&r.params, true))
	var list []func()
	for i, l := range r.net.gru {
		dpre := r.a.gates.act[i]
		list = append(list,
			func() { l.denseGrad(r.grad, 0, r.a.in.y, c.Units, dpre) },
			func() {
				l.denseGrad(r.grad, 2, r.a.state, c.MemoryUnits, dpre)
				l.oneHotGrad(r.grad, 1, r.a.action, 1, dpre)
				l.biasGrad(r.grad, dpre)
			})
	}
	r.grads = newJobs(pool, append(list, func() {
		in := r.a.in
		r.net.in.denseGrad(r.grad, 0, r.obs, c.Obs, in.pre)
		r.net.in.biasGrad(r.grad, in.pre)
		r.net.in.scaleGrad(in, r.grad)
	}))
	r.senseF, r.scanF, r.backF, r.dsenseF = r.senseRows, r.scanBlocks, r.backBlocks, r.dsenseRows
	return r
}

// Forward writes the state after every step, T·B × StateLen, given the symlog
// of the observations.
func (r *Remember) Forward(params, obs []float32, seq *Recurrence, next []float32) {
	r.params, r.obs, r.seq, r.next = params, obs, seq, next
	r.packs.run()
	for i, first := range seq.First {
		r.a.action[i] = seq.PrevAction[i]
		if first {
			r.a.action[i] = -1
		}
	}
	r.pool.Run(blocks(r.t*r.b, embedUnit), r.senseF)
	r.pool.Run(blocks(r.b, scanRows), r.scanF)
}

func (r *Remember) senseRows(from, to int) {
	for k := from; k < to; k++ {
		r.net.sense(r.a, r.obs, k*embedUnit, min((k+1)*embedUnit, r.t*r.b))
	}
}

func (r *Remember) scanBlocks(from, to int) {
	n := r.cfg.MemoryUnits
	for k := from; k < to; k++ {
		lo, hi := k*scanRows, min((k+1)*scanRows, r.b)
		before := r.seq.Start[lo*n : hi*n]
		for t := range r.t {
			s, e := t*r.b+lo, t*r.b+hi
			copy(r.a.state[s*n:e*n], before)
			for row := s; row < e; row++ {
				if r.seq.First[row] {
					clear(r.a.state[row*n : (row+1)*n])
				}
			}
			before = r.next[s*n : e*n]
			r.net.recur(r.a, before, s, e)
		}
	}
}

// Backward takes the gradient of every state of the last Forward, which it
// replaces by the one that includes later steps, and writes the parameters'
// gradient to grad.
func (r *Remember) Backward(dnext, grad []float32) {
	r.dnext, r.grad = dnext, grad
	clear(r.a.in.dscale)
	r.pool.Run(blocks(r.b, scanRows), r.backF)
	r.pool.Run(blocks(r.t*r.b, embedUnit), r.dsenseF)
	r.grads.run()
}

func (r *Remember) backBlocks(from, to int) {
	n := r.cfg.MemoryUnits
	for k := from; k < to; k++ {
		lo, hi := k*scanRows, min((k+1)*scanRows, r.b)
		carry := r.carry[lo*n : hi*n]
		for t := r.t - 1; t >= 0; t-- {
			s, e := t*r.b+lo, t*r.b+hi
			clear(carry)
			r.a.gates.back(carry, r.dnext[s*n:e*n], r.a.state[s*n:e*n], s, e)
			for i, l := range r.net.gru {
				l.denseBack(2, carry, n, r.a.gates.dpreRows(i, s, e), true)
			}
			if t == 0 {
				break
			}
			for row := s; row < e; row++ {
				if !r.seq.First[row] {
					kernel.Add(r.dnext[(row-r.b)*n:(row-r.b+1)*n], carry[(row-s)*n:(row-s+1)*n])
				}
			}
		}
	}
}

func (r *Remember) dsenseRows(from, to int) {
	u := r.cfg.Units
	for k := from; k < to; k++ {
		lo, hi := k*embedUnit, min((k+1)*embedUnit, r.t*r.b)
		dx := r.dx[lo*u : hi*u]
		for i, l := range r.net.gru {
			l.denseBack(0, dx, u, r.a.gates.dpreRows(i, lo, hi), i > 0)
		}
		r.net.in.activateBack(r.a.in, dx, lo, hi, k)
	}
}
