package model

import "slices"

// Rollout is the random numbers and constraints of an imagined rollout.
type Rollout struct {
	PolicyStart []float32 // B × policy state before the sequences' first step
	Mask        []bool    // T·B × Actions: allowed actions at the replayed steps, or nil
	Draw        []float32 // H·N·DrawLen for the prior's samples
	ActionDraw  []float32 // H·N uniform numbers for the actions
}

// Imaginer rolls the policy along replayed posterior states and then, from the
// last K of each sequence, H steps through the prior. The world model is only
// read: gradients reach the policy's parameters alone, from the logits of the
// imagined steps back through its GRU to the rollout's start.
//
// A rollout keeps the action mask of the replayed step that it starts from.
type Imaginer struct {
	cfg        Config
	t, b, k, h int
	each       int // rollouts from each start, in adjacent rows
	n          int // rollouts: k·b·each
	block      int // rollouts that one thread takes through the whole horizon at a time
	pool       *Pool
	core       *core
	prior      *mlp
	policy     policyNet

	roll       *policyCache // T·B rows: the replayed steps, GRU only
	a          *policyCache // H·N rows: the imagined steps
	dream      *coreCache   // the rows under way, used again at each step
	priorCache []*cache
	priorLog   []float32
	soft       []float32

	// The imagined states, (H+1)·N rows, and what the policy did, H·N rows.
	States  States
	Actions []int32
	Probs   []float32 // H·N × Actions, after masking and mixing
	Soft    []float32 // before mixing
	mask    []bool

	packs                 *jobs
	actorP, rssmP, priorP []float32
	grads                 *jobs
	grad                  []float32

	post            States
	seq             *Sequences
	in              *Rollout
	dlogits         []float32
	carry           []float32
	rollF           func(lo, hi int)
	forwardF, backF func(thread, k int)
}

// NewImaginer makes a runner for b sequences of t steps, with each rollouts of
// h steps from every one of the last k steps of each.
func NewImaginer(c Config, t, b, k, h, each int, pool *Pool) *Imaginer {
	nets := newNetworks(c)
	n := k * b * each
	block := blockRows(n)
	underWay := pool.Threads() * block
	m := &Imaginer{
		cfg: c, t: t, b: b, k: k, h: h, each: each, n: n, block: block, pool: pool,
		core: nets.core, prior: nets.prior, policy: nets.actor,
		roll:     newPolicyCache(&c, t*b, scanRows, 0),
		a:        newPolicyCache(&c, h*n, block, underWay),
		dream:    newCoreCache(&c, underWay, block, false),
		priorLog: make([]float32, underWay*c.LogitsLen()), soft: make([]float32, underWay*c.StochLen()),
		States:  NewStates(c, (h+1)*n),
		Actions: make([]int32, h*n),
		Probs:   make([]float32, h*n*c.Actions), Soft: make([]float32, h*n*c.Actions),
		mask:  make([]bool, h*n*c.Actions),
		carry: make([]float32, n*c.PolicyState()),
	}
	for _, l := range m.prior.hidden {
		m.priorCache = append(m.priorCache, newCache(underWay, block, l.out, false))
	}
	// The policy reads the imagined states where they lie.
	m.a.from = m.States.Rows(c, 0, h*n)
	for _, k := range append([]*cache{m.a.in}, m.a.head...) {
		k.dscale = k.dscale[:blocks(n, block)*k.n]
	}
	m.packs = newJobs(pool, slices.Concat(
		m.core.packs(&m.rssmP, false), m.policy.packs(&m.actorP, true), m.prior.packs(&m.priorP, false)))
	m.grads = newJobs(pool, m.policy.grads(&m.cfg, m.a, &m.grad, &m.dlogits))
	m.rollF, m.forwardF, m.backF = m.rollBlocks, m.forwardBlock, m.backBlock
	return m
}

// PolicyStates is the policy's state before each replayed step, T·B rows,
// as of the last Forward.
func (m *Imaginer) PolicyStates() []float32 { return m.roll.state }

// Mask is the action mask of the imagined steps, H·N rows.
func (m *Imaginer) Mask() []bool { return m.mask }

// Forward imagines from the posterior states and writes the policy's logits of
// the H·N imagined steps.
func (m *Imaginer) Forward(actor, rssm, prior []float32, post States, seq *Sequences, in *Rollout, logits []float32) {
	m.actorP, m.rssmP, m.priorP = actor, rssm, prior
	m.packs.run()
	m.post, m.seq, m.in = post, seq, in
	m.roll.from = post
	m.pool.Run(blocks(m.b, scanRows), m.rollF)
	m.pool.Deal(blocks(m.n, m.block), m.forwardF)
	copy(logits, m.a.logits)
}

// rollBlocks carries the policy's state along the replayed sequences.
func (m *Imaginer) rollBlocks(from, to int) {
	if !m.cfg.Recurrent {
		return
	}
	c, g := &m.cfg, m.cfg.PolicyUnits
	lo, hi := from*scanRows, min(to*scanRows, m.b)
	for t := range m.t {
		s, e := t*m.b+lo, t*m.b+hi
		before := m.roll.state[s*g : e*g]
		if t == 0 {
			copy(before, m.in.PolicyStart[lo*g:hi*g])
		} else {
			copy(before, m.roll.next[(s-m.b)*g:(e-m.b)*g])
		}
		for r := s; r < e; r++ {
			if m.seq.First[r] {
				clear(m.roll.state[r*g : (r+1)*g])
			}
		}
		m.policy.recur(c, m.roll, s, e)
	}
}

func (m *Imaginer) forwardBlock(thread, k int) {
	lo, hi := k*m.block, min((k+1)*m.block, m.n)
	m.begin(lo, hi)
	for t := range m.h {
		m.step(t, lo, hi, thread*m.block)
	}
}

// begin copies states, policy states and masks to the rollouts [lo, hi).
func (m *Imaginer) begin(lo, hi int) {
	c, g, a := &m.cfg, m.cfg.PolicyState(), m.cfg.Actions
	at := (m.t - m.k) * m.b
	for i := lo; i < hi; i++ {
		s := at + i/m.each
		m.States.Rows(*c, i, i+1).Copy(m.post.Rows(*c, s, s+1))
		copy(m.a.state[i*g:(i+1)*g], m.roll.state[s*g:(s+1)*g])
		for t := range m.h {
			dst := m.mask[(t*m.n+i)*a : (t*m.n+i+1)*a]
			if m.in.Mask != nil {
				copy(dst, m.in.Mask[s*a:(s+1)*a])
				continue
			}
			for j := range dst {
				dst[j] = true
			}
		}
	}
}

// step lets the policy act in rows [lo, hi) of imagined step t and the prior
// answer, with the rows from at on for what is under way.
func (m *Imaginer) step(t, lo, hi, at int) {
	c, g, a := &m.cfg, m.cfg.PolicyState(), m.cfg.Actions
	s, e := t*m.n+lo, t*m.n+hi
	if t > 0 {
		copy(m.a.state[s*g:e*g], m.a.next[(s-m.n)*g:(e-m.n)*g])
	}
	m.policy.recur(c, m.a, s, e)
	m.policy.decide(c, m.a, s, e)
	probs := m.Probs[s*a : e*a]
	c.Dist().Probs(probs, m.Soft[s*a:e*a], m.a.logits[s*a:e*a], m.mask[s*a:e*a])
	for r := s; r < e; r++ {
		m.Actions[r] = pick(m.Probs[r*a:(r+1)*a], m.in.ActionDraw[r], 1, 0)
	}

	next := m.States.Rows(*c, s+m.n, e+m.n)
	lo, hi = at, at+hi-lo
	m.dream.from.Rows(*c, lo, hi).Copy(m.States.Rows(*c, s, e))
	copy(m.dream.action[lo:hi], m.Actions[s:e])
	m.core.forward(m.dream, lo, hi)
	copy(next.Deter, m.dream.next[lo*c.Deter:hi*c.Deter])
	x := next.Deter
	for i, l := range m.prior.hidden {
		pre := m.priorCache[i].preRows(lo, hi)
		l.start(0, pre, x, l.parts[0].in)
		l.activate(m.priorCache[i], lo, hi)
		x = m.priorCache[i].yRows(lo, hi)
	}
	w, n, d := c.LogitsLen(), c.StochLen(), c.DrawLen()
	logits := m.priorLog[lo*w : hi*w]
	m.prior.out.start(0, logits, x, c.Hidden)
	c.samplePrior(m.prior, next.Stoch, m.soft[lo*n:hi*n], logits, m.in.Draw[s*d:e*d])
}

// Backward takes the gradient of the logits and writes that of the policy's
// parameters.
func (m *Imaginer) Backward(dlogits, grad []float32) {
	m.dlogits = dlogits
	clear(m.a.in.dscale)
	for _, h := range m.a.head {
		clear(h.dscale)
	}
	m.pool.Deal(blocks(m.n, m.block), m.backF)
	m.grad = grad
	m.grads.run()
}

func (m *Imaginer) backBlock(thread, k int) {
	g, a := m.cfg.PolicyState(), m.cfg.Actions
	lo, hi := k*m.block, min((k+1)*m.block, m.n)
	carry := m.carry[lo*g : hi*g]
	clear(carry)
	for t := m.h - 1; t >= 0; t-- {
		s, e := t*m.n+lo, t*m.n+hi
		m.policy.back(&m.cfg, m.a, m.dlogits[s*a:e*a], carry, s, e, k, thread*m.block)
	}
}
