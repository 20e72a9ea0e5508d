package model

import (
	"math"

	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// policyCache is the activations of the policy over some rows. The caller
// fills from and state; next is the state afterwards.
type policyCache struct {
	from   States
	state  []float32 // rows × PolicyUnits, empty for a feed-forward policy
	next   []float32
	logits []float32 // rows × Actions

	in   *cache
	pre  [3][]float32
	act  [3][]float32
	dpre [3][]float32
	head []*cache

	din, dnext, dhead []float32
}

// newPolicyCache makes room for rows rows. back needs scratch memory of its
// own for each of the scratch rows that it may be run on at the same time.
func newPolicyCache(c *Config, rows, rowBlock, scratch int) *policyCache {
	backward := scratch > 0
	a := &policyCache{
		from: NewStates(*c, rows), logits: make([]float32, rows*c.Actions),
		in:    newCache(rows, rowBlock, c.Units, backward),
		state: make([]float32, rows*c.PolicyState()), next: make([]float32, rows*c.PolicyState()),
	}
	for range c.Layers {
		a.head = append(a.head, newCache(rows, rowBlock, c.Units, backward))
	}
	for i := range a.pre {
		a.pre[i] = make([]float32, rows*c.PolicyState())
		a.act[i] = make([]float32, rows*c.PolicyState())
		if backward {
			a.dpre[i] = make([]float32, rows*c.PolicyState())
		}
	}
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
		pre := a.pre[i][s:e]
		l.start(0, pre, a.in.yRows(lo, hi), c.Units)
		l.dense(1, pre, a.state[s:e], g)
	}
	kernel.GRU(a.next[s:e], a.state[s:e], a.pre[0][s:e], a.pre[1][s:e], a.pre[2][s:e],
		a.act[0][s:e], a.act[1][s:e], a.act[2][s:e])
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
		l.activateBack(a.head[i], dy, lo, hi, block)
		dpre := a.head[i].dpreRows(lo, hi)
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
		kernel.GRUBackward(dstate, a.dpre[0][s:e], a.dpre[1][s:e], a.dpre[2][s:e], carry,
			a.state[s:e], a.pre[1][s:e], a.act[0][s:e], a.act[1][s:e], a.act[2][s:e])
		for i, l := range p.gru {
			l.denseBack(0, din, u, a.dpre[i][s:e], true)
			l.denseBack(1, dstate, g, a.dpre[i][s:e], true)
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
		func() { p.in.denseGrad(*grad, 0, a.from.Deter, c.Deter, in.dpre) },
		func() { p.in.stochGrad(*grad, 1, a.from.Stoch, c, in.dpre) },
		func() {
			p.in.biasGrad(*grad, in.dpre)
			p.in.scaleGrad(in, *grad)
		},
	}
	if c.Recurrent {
		for i, l := range p.gru {
			list = append(list,
				func() { l.denseGrad(*grad, 0, in.y, c.Units, a.dpre[i]) },
				func() {
					l.denseGrad(*grad, 1, a.state, c.PolicyUnits, a.dpre[i])
					l.biasGrad(*grad, a.dpre[i])
				})
		}
	}
	for i, l := range p.head.hidden {
		h := a.head[i]
		if i == 0 {
			list = append(list, func() { l.denseGrad(*grad, 0, in.y, c.Units, h.dpre) })
			if c.Recurrent {
				list = append(list, func() { l.denseGrad(*grad, 1, a.next, c.PolicyUnits, h.dpre) })
			}
		} else {
			list = append(list, func() { l.denseGrad(*grad, 0, a.head[i-1].y, c.Units, h.dpre) })
		}
		list = append(list, func() {
			l.biasGrad(*grad, h.dpre)
			l.scaleGrad(h, *grad)
		})
	}
	last := a.head[len(a.head)-1]
	return append(list, func() {
		p.head.out.denseGrad(*grad, 0, last.y, c.Units, *dlogits)
		p.head.out.biasGrad(*grad, *dlogits)
	})
}

// masked is the logit of an action that is not allowed.
const masked = -1e30

// PolicyProbs writes the action probabilities of each row: the softmax over
// the allowed actions, mixed with unimix of the uniform distribution over
// them. mask may be nil, all allowed; a row with no allowed action is treated
// as all allowed. soft gets the softmax before mixing.
func (c Config) PolicyProbs(p, soft, logits []float32, mask []bool) {
	a := c.Actions
	copy(soft, logits)
	rows := len(logits) / a
	if mask != nil {
		for r := range rows {
			m := mask[r*a : (r+1)*a]
			if allowed(m) == 0 {
				continue
			}
			for i, ok := range m {
				if !ok {
					soft[r*a+i] = masked
				}
			}
		}
	}
	kernel.Softmax(soft, soft, rows, a)
	for r := range rows {
		n := a
		var m []bool
		if mask != nil {
			m = mask[r*a : (r+1)*a]
			if k := allowed(m); k > 0 {
				n = k
			} else {
				m = nil
			}
		}
		mix := c.Unimix / float32(n)
		for i := range a {
			if m != nil && !m[i] {
				p[r*a+i] = 0
				continue
			}
			p[r*a+i] = (1-c.Unimix)*soft[r*a+i] + mix
		}
	}
}

func allowed(mask []bool) int {
	n := 0
	for _, ok := range mask {
		if ok {
			n++
		}
	}
	return n
}

// PolicyLogitsBack adds to dlogits the gradient of the logits given dp, that
// of the probabilities of PolicyProbs.
func (c Config) PolicyLogitsBack(dlogits, dp, soft []float32) {
	rows := len(dp) / c.Actions
	for r := range rows {
		s := soft[r*c.Actions : (r+1)*c.Actions]
		d := dp[r*c.Actions : (r+1)*c.Actions]
		var dot float64
		for i, v := range s {
			dot += float64(v) * float64(d[i])
		}
		for i, v := range s {
			dlogits[r*c.Actions+i] += (1 - c.Unimix) * v * (d[i] - float32(dot))
		}
	}
}

// Entropy of one row of probabilities, in nats.
func Entropy(p []float32) float64 {
	var h float64
	for _, v := range p {
		if v > 0 {
			h -= float64(v) * math.Log(float64(v))
		}
	}
	return h
}
