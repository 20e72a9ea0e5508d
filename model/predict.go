package model

import (
	"fmt"
	"math/rand/v2"
)

// Predictor follows one environment with the world model and predicts, open
// loop, what it will observe under given actions: several samples, whose spread
// is the model's uncertainty. It belongs to one goroutine.
type Predictor struct {
	cfg     Config
	samples int
	policy  *Policy // one row: the posterior
	rng     *rand.Rand

	core     *core
	prior    *mlp
	dream    *coreCache
	caches   []*cache
	logits   []float32
	soft     []float32
	draw     []float32
	states   States
	pool     *Pool
	decoder  *MLP
	decoding []float32
}

// NewPredictor makes a predictor with so many samples from all of a model's
// parameters, which must not change while it lives. Close ends it.
func NewPredictor(params *Params, samples int, seed uint64) (*Predictor, error) {
	c := params.Config
	if samples < 1 {
		return nil, fmt.Errorf("predictor: %d samples, want 1 or more", samples)
	}
	policy, err := NewPolicy(c, 1, seed)
	if err != nil {
		return nil, err
	}
	policy.Use(params)
	nets := newNetworks(c)
	p := &Predictor{
		cfg: c, samples: samples, policy: policy, rng: policy.rng,
		core: nets.core, prior: nets.prior, dream: newCoreCache(&c, samples, samples, false),
		logits: make([]float32, samples*c.LogitsLen()), soft: make([]float32, samples*c.StochLen()),
		draw: make([]float32, samples*c.DrawLen()), states: NewStates(c, samples), pool: NewPool(1),
		decoding: params.Module(Decoder).Data,
	}
	for _, l := range p.prior.hidden {
		p.caches = append(p.caches, newCache(samples, samples, l.out, false))
	}
	p.decoder = NewFrozenMLP(c, Decoder, samples, p.pool)
	rssm, prior := params.Module(RSSM).Data, params.Module(Prior).Data
	for _, pack := range append(p.core.packs(&rssm, false), p.prior.packs(&prior, false)...) {
		pack()
	}
	return p, nil
}

// Close frees the predictor.
func (p *Predictor) Close() { p.pool.Close() }

// Start goes on from a context row, the carry before the next Observe.
func (p *Predictor) Start(context []float32) error {
	action, err := p.cfg.UnpackContext(context, p.policy.states, p.policy.policy.next)
	if err != nil {
		return err
	}
	p.policy.action[0] = action
	return nil
}

// Observe takes in a step: Obs values as the environment gives them, its flags,
// and the action that was chosen at it.
func (p *Predictor) Observe(obs []float32, flags uint8, action int32) {
	if flags&First != 0 {
		p.policy.resetRow(0)
	}
	p.policy.think(obs)
	p.policy.action[0] = action
}

// Predict imagines from the step that was observed last, under the action chosen
// there and those that follow. It writes what is observed at the next
// len(actions) steps to dst, [len(actions), samples, Obs], in the environment's
// units. What it follows is left as it is.
func (p *Predictor) Predict(actions []int32, dst []float32) {
	c, n := &p.cfg, p.samples
	for r := range n {
		p.states.Rows(*c, r, r+1).Copy(p.policy.states)
	}
	for t, action := range actions {
		p.dream.from.Copy(p.states)
		for r := range n {
			p.dream.action[r] = action
		}
		p.core.forward(p.dream, 0, n)
		copy(p.states.Deter, p.dream.next)
		x := p.states.Deter
		for i, l := range p.prior.hidden {
			l.start(0, p.caches[i].pre, x, l.parts[0].in)
			l.activate(p.caches[i], 0, n)
			x = p.caches[i].y
		}
		p.prior.out.start(0, p.logits, x, c.Hidden)
		c.Draws(p.draw, p.rng)
		c.samplePrior(p.prior, p.states.Stoch, p.soft, p.logits, p.draw)
		out := dst[t*n*c.Obs : (t+1)*n*c.Obs]
		p.decoder.Forward(p.decoding, Input{States: p.states}, out)
		for i, v := range out {
			out[i] = float32(Symexp(float64(v)))
		}
	}
}
