package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Advisor is the policy as a service takes it: one step for as many rows as ask at
// the moment, up to a bound, each with a context row of its own that lies with the
// caller between steps. With the parameters of the whole world model it also tells
// how far each observation is from what the model had expected.
//
// An Advisor belongs to one goroutine.
type Advisor struct {
	cfg      Config
	rows     int
	nets     *networks
	predicts bool
	rng      *rand.Rand

	encoder          []*cache
	core             *coreCache
	posterior        *cache
	prior, decoder   []*cache
	policy           *policyCache
	states, expected States
	logits, soft     []float32
	draw             []float32
	symlog, decoded  []float32
	probsSoft        []float32
}

// NewAdvisor makes an advisor for at most rows rows a step from a file of
// parameters: those that acting needs, as Params.Blob writes them, or all, as in a
// checkpoint. A value that is no finite number, or a tensor that is missing, is an
// error that wraps ErrParams. Latents are sampled from seed.
func NewAdvisor(c Config, rows int, f *File, seed uint64) (*Advisor, error) {
	params, err := NewParams(c)
	if err != nil {
		return nil, err
	}
	want := params.ActingTensors()
	world := append(slices.Clone(params.Module(Prior).Tensors), params.Module(Decoder).Tensors...)
	have := f.ByName()
	_, predicts := have[world[0].Name]
	if predicts {
		want = append(want, world...)
	}
	for _, t := range want {
		for _, v := range have[t.Name].Data {
			if v-v != 0 {
				return nil, fmt.Errorf("%w: tensor %s has the value %v", ErrParams, t.Name, v)
			}
		}
	}
	if err := Assign(want, f); err != nil {
		return nil, err
	}
	nets := newNetworks(c)
	a := &Advisor{
		cfg: c, rows: rows, nets: nets, predicts: predicts, rng: rand.New(rand.NewPCG(seed, 0x61647669)),
		core: newCoreCache(&c, rows, rows, false), posterior: newCache(rows, rows, c.Hidden, false),
		policy: newPolicyCache(&c, rows, rows, 0), states: NewStates(c, rows), expected: NewStates(c, rows),
		logits: make([]float32, rows*c.LogitsLen()), soft: make([]float32, rows*c.StochLen()),
		draw: make([]float32, rows*c.DrawLen()), symlog: make([]float32, rows*c.Obs),
		decoded: make([]float32, rows*c.Obs), probsSoft: make([]float32, rows*c.Actions),
	}
	caches := func(m *mlp) (list []*cache) {
		for _, l := range m.hidden {
			list = append(list, newCache(rows, rows, l.out, false))
		}
		return list
	}
	a.encoder, a.prior, a.decoder = caches(nets.encoder), caches(nets.prior), caches(nets.heads[Decoder])
	data := func(module string) *[]float32 { return &params.Module(module).Data }
	packing := slices.Concat(nets.encoder.packs(data(Encoder), false), nets.core.packs(data(RSSM), false),
		packs([]*layer{nets.post.hidden, nets.post.out}, data(RSSM), false), nets.actor.packs(data(Actor), false),
		nets.prior.packs(data(Prior), false), nets.heads[Decoder].packs(data(Decoder), false))
	for _, pack := range packing {
		pack()
	}
	return a, nil
}

// Predicts reports whether the parameters had the world model's prior and decoder,
// so that Step tells what was not expected.
func (a *Advisor) Predicts() bool { return a.predicts }

// Step advances n rows: obs is n × Obs as the environment gives it, flags the
// steps' flags, mask the allowed actions (n × Actions, or nil for all). Each
// context row, n × ContextLen, is the carry before the step, and afterwards the
// carry after it with no previous action: SetAction adds the one that is taken.
// probs gets the probabilities of the actions, n × Actions.
//
// excess, n × Obs, gets by how much each of the observation's values exceeds, in symlog
// space, what the decoder makes of one sample of the prior: the model's one-step error.
// It is no number at a trial's first step, where there was nothing to predict from, and
// without Predicts; nil asks for none.
func (a *Advisor) Step(n int, obs []float32, flags []uint8, mask []bool, context, probs, excess []float32) error {
	if n < 1 || n > a.rows {
		return fmt.Errorf("advisor: %d rows, want 1 to %d", n, a.rows)
	}
	c, nets, w := &a.cfg, a.nets, a.cfg.ContextLen()
	g := c.PolicyState()
	for r := range n {
		row := context[r*w : (r+1)*w]
		if flags[r]&First != 0 {
			clear(row)
		}
		action, err := c.UnpackContext(row, a.core.from.Rows(*c, r, r+1), a.policy.state[r*g:(r+1)*g])
		if err != nil {
			return fmt.Errorf("advisor: row %d: %w", r, err)
		}
		a.core.action[r] = action
	}
	// What follows runs on the first n rows of everything.
	x, width := a.symlog[:n*c.Obs], c.Obs
	SymlogTo(x, obs[:n*c.Obs])
	for i, l := range nets.encoder.hidden {
		l.start(0, a.encoder[i].preRows(0, n), x, width)
		l.activate(a.encoder[i], 0, n)
		x, width = a.encoder[i].yRows(0, n), l.out
	}
	nets.core.forward(a.core, 0, n)
	states := a.states.Rows(*c, 0, n)
	copy(states.Deter, a.core.next)

	nets.post.hidden.start(0, a.posterior.preRows(0, n), states.Deter, c.Deter)
	nets.post.hidden.dense(1, a.posterior.preRows(0, n), x, c.Units)
	nets.post.hidden.activate(a.posterior, 0, n)
	logits := a.logits[:n*c.LogitsLen()]
	nets.post.out.start(0, logits, a.posterior.yRows(0, n), c.Hidden)
	c.Draws(a.draw[:n*c.DrawLen()], a.rng)
	c.sample(states.Stoch, a.soft[:n*c.StochLen()], logits, a.draw[:n*c.DrawLen()])

	a.policy.from = a.states
	nets.actor.recur(c, a.policy, 0, n)
	nets.actor.decide(c, a.policy, 0, n)
	if mask != nil {
		mask = mask[:n*c.Actions]
	}
	c.Dist().Probs(probs[:n*c.Actions], a.probsSoft[:n*c.Actions], a.policy.logits[:n*c.Actions], mask)
	for r := range n {
		c.PackContext(context[r*w:(r+1)*w], states.Rows(*c, r, r+1), a.policy.next[r*g:(r+1)*g], -1)
	}
	if excess != nil {
		a.exceed(n, flags, excess)
	}
	return nil
}

func (a *Advisor) exceed(n int, flags []uint8, dst []float32) {
	c := &a.cfg
	dst = dst[:n*c.Obs]
	if !a.predicts {
		for i := range dst {
			dst[i] = float32(math.NaN())
		}
		return
	}
	states := a.states.Rows(*c, 0, n)
	x, width := states.Deter, c.Deter
	for i, l := range a.nets.prior.hidden {
		l.start(0, a.prior[i].preRows(0, n), x, width)
		l.activate(a.prior[i], 0, n)
		x, width = a.prior[i].yRows(0, n), l.out
	}
	expected := a.expected.Rows(*c, 0, n)
	logits := a.logits[:n*c.LogitsLen()]
	a.nets.prior.out.start(0, logits, x, c.Hidden)
	c.Draws(a.draw[:n*c.DrawLen()], a.rng)
	c.samplePrior(a.nets.prior, expected.Stoch, a.soft[:n*c.StochLen()], logits, a.draw[:n*c.DrawLen()])
	decoder := a.nets.heads[Decoder]
	for i, l := range decoder.hidden {
		pre := a.decoder[i].preRows(0, n)
		if i == 0 {
			l.start(0, pre, states.Deter, c.Deter)
			l.stoch(1, pre, expected.Stoch, c)
		} else {
			l.start(0, pre, a.decoder[i-1].yRows(0, n), l.parts[0].in)
		}
		l.activate(a.decoder[i], 0, n)
	}
	decoder.out.start(0, a.decoded[:n*c.Obs], a.decoder[len(a.decoder)-1].yRows(0, n), c.Units)
	for r := range n {
		for i := r * c.Obs; i < (r+1)*c.Obs; i++ {
			dst[i] = a.symlog[i] - a.decoded[i]
			if flags[r]&First != 0 {
				dst[i] = float32(math.NaN())
			}
		}
	}
}

// SetAction puts the action that is taken into a context row that Step has written.
func (c Config) SetAction(row []float32, action int) { row[c.ContextLen()-1] = float32(action + 1) }
