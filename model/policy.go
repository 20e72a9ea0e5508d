package model

// policyCache is the activations of the policy over some rows. The caller sets
// from to states that it has and fills state; next is the state afterwards.
type policyCache struct {
	from   States
	state  []float32 // rows × PolicyUnits, empty for a feed-forward policy
	next   []float32
	logits []float32 // rows × Actions

	in    *cache
	gates gruCache
	head  []*cache

	din, dnext, dhead []float32
}

// newPolicyCache makes room for rows rows. back needs scratch memory of its
// own for each of the scratch rows that it may be run on at the same time.
func newPolicyCache(c *Config, rows, rowBlock, scratch int) *policyCache {
	backward := scratch > 0
	a := &policyCache{
		logits: make([]float32, rows*c.Actions),
		in:     newCache(rows, rowBlock, c.Units, backward),
		state:  make([]float32, rows*c.PolicyState()), next: make([]float32, rows*c.PolicyState()),
	}
	for range c.Layers {
		a.head = append(a.head, newCache(rows, rowBlock, c.Units, backward))
	}
	a.gates = newGRUCache(rows, c.PolicyState())
	if backward {
		a.din = make([]float32, scratch*c.Units)
		a.dnext = make([]float32, scratch*c.PolicyState())
		a.dhead = make([]float32, scratch*c.Units)
	}
	return a
}

// packs are the jobs that load all layers from *params.
func (p *policyNet) packs(params *[]float32, backward bool) []func() {
	list := append(packs([]*layer{p.in}, params, backward), p.head.packs(params, backward)...)
	for _, l := range p.gru {
		if l != nil {
			list = append(list, func() { l.load(*params, backward) })
		}
	}
	return list
}

// recur runs the input layer and the GRU in rows [lo, hi).
func (p *policyNet) recur(c *Config, a *policyCache, lo, hi int) {
	from := a.from.Rows(*c, lo, hi)
	pre := a.in.preRows(lo, hi)
	p.in.start(0, pre, from.Deter, c.Deter)
	p.in.stoch(1, pre, from.Stoch, c)
	p.in.activate(a.in, lo, hi)
	if !c.Recurrent {
		return
	}
	g := c.PolicyUnits
	s, e := lo*g, hi*g
	for i, l := range p.gru {
		pre := a.gates.preRows(i, lo, hi)
		l.start(0, pre, a.in.yRows(lo, hi), c.Units)
		l.dense(1, pre, a.state[s:e], g)
	}
	a.gates.forward(a.next[s:e], a.state[s:e], lo, hi)
}

// decide runs the head after recur and leaves the logits.
func (p *policyNet) decide(c *Config, a *policyCache, lo, hi int) {
	for i, l := range p.head.hidden {
		pre := a.head[i].preRows(lo, hi)
		if i == 0 {
			l.start(0, pre, a.in.yRows(lo, hi), c.Units)
			if c.Recurrent {
				l.dense(1, pre, a.next[lo*c.PolicyUnits:hi*c.PolicyUnits], c.PolicyUnits)
			}
		} else {
			l.start(0, pre, a.head[i-1].yRows(lo, hi), c.Units)
		}
		l.activate(a.head[i], lo, hi)
	}
	logits := a.logits[lo*c.Actions : hi*c.Actions]
	p.head.out.start(0, logits, a.head[len(a.head)-1].yRows(lo, hi), c.Units)
}

// back takes the gradient of the logits in rows [lo, hi) and that of the state
// afterwards in carry, which it replaces by that of the state before. It uses
// the scratch rows from at on.
func (p *policyNet) back(c *Config, a *policyCache, dlogits, carry []float32, lo, hi, block, at int) {
	u, g := c.Units, c.PolicyUnits
	end := at + hi - lo
	dy := a.dhead[at*u : end*u]
	p.head.out.denseBack(0, dy, u, dlogits, false)
	din := a.din[at*u : end*u]
	for i := len(p.head.hidden) - 1; i >= 0; i-- {
		l := p.head.hidden[i]
		dpre := l.activateBack(a.head[i], dy, lo, hi, block)
		if i > 0 {
			l.denseBack(0, dy, u, dpre, false)
			continue
		}
		l.denseBack(0, din, u, dpre, false)
		if c.Recurrent {
			l.denseBack(1, carry, g, dpre, true)
		}
	}
	if c.Recurrent {
		s, e := lo*g, hi*g
		dstate := a.dnext[at*g : end*g]
		clear(dstate)
		a.gates.back(dstate, carry, a.state[s:e], lo, hi)
		for i, l := range p.gru {
			dpre := a.gates.dpreRows(i, lo, hi)
			l.denseBack(0, din, u, dpre, true)
			l.denseBack(1, dstate, g, dpre, true)
		}
		copy(carry, dstate)
	}
	p.in.activateBack(a.in, din, lo, hi, block)
}

// grads are the jobs that write the gradients of all weights, summed over all
// rows, to *grad.
func (p *policyNet) grads(c *Config, a *policyCache, grad, dlogits *[]float32) []func() {
	in := a.in
	list := []func(){
		func() { p.in.denseGrad(*grad, 0, a.from.Deter, c.Deter, in.pre) },
		func() { p.in.stochGrad(*grad, 1, a.from.Stoch, c, in.pre) },
		func() {
			p.in.biasGrad(*grad, in.pre)
			p.in.scaleGrad(in, *grad)
		},
	}
	if c.Recurrent {
		for i, l := range p.gru {
			list = append(list,
				func() { l.denseGrad(*grad, 0, in.y, c.Units, a.gates.act[i]) },
				func() {
					l.denseGrad(*grad, 1, a.state, c.PolicyUnits, a.gates.act[i])
					l.biasGrad(*grad, a.gates.act[i])
				})
		}
	}
	for i, l := range p.head.hidden {
		h := a.head[i]
		if i == 0 {
			list = append(list, func() { l.denseGrad(*grad, 0, in.y, c.Units, h.pre) })
			if c.Recurrent {
				list = append(list, func() { l.denseGrad(*grad, 1, a.next, c.PolicyUnits, h.pre) })
			}
		} else {
			list = append(list, func() { l.denseGrad(*grad, 0, a.head[i-1].y, c.Units, h.pre) })
		}
		list = append(list, func() {
			l.biasGrad(*grad, h.pre)
			l.scaleGrad(h, *grad)
		})
	}
	last := a.head[len(a.head)-1]
	return append(list, func() {
		p.head.out.denseGrad(*grad, 0, last.y, c.Units, *dlogits)
		p.head.out.biasGrad(*grad, *dlogits)
	})
}
