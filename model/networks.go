package model

import "strconv"

// networks is every layer of a configuration, laid out in modules. Layers
// carry packed weights, so whoever computes makes a set of its own.
type networks struct {
	cfg     Config
	layouts []*layout

	encoder *mlp
	core    *core
	post    posterior
	prior   *mlp // of the deterministic state, and where it is joint of the latents too
	actor   policyNet
	heads   map[string]*mlp // decoder, reward, continue, critic
}

// mlp is hidden layers and, unless it is an encoder, an output layer.
type mlp struct {
	hidden []*layer
	out    *layer
	joint  *joint // of a prior, or nil
}

// posterior maps deterministic state and embedding to logits.
type posterior struct {
	hidden *layer // parts: deter, embedding
	out    *layer
}

// policyNet is the RL² policy: the model state passes a hidden layer, a GRU
// carries memory through the trial, and the head sees both.
type policyNet struct {
	in   *layer    // parts: deter, stoch
	gru  [3]*layer // reset, candidate, update; parts: in, state
	head mlp       // first parts: in, state
}

// Depths that DreamerV3 fixes: one hidden layer in the posterior and in the
// heads of reward and continuation, two in the prior.
const priorLayers = 2

func newNetworks(c Config) *networks {
	n := &networks{cfg: c, heads: map[string]*mlp{}}
	cfg := &n.cfg

	l := n.module(Encoder)
	n.encoder = l.mlp(c.Layers, c.Units, 0, 0, c.Obs)

	l = n.module(RSSM)
	n.core = l.core(cfg)
	n.post.hidden = l.hidden("posterior", c.Hidden, c.Deter, c.Units)
	n.post.out = l.linear("posterior_out", 1, c.LogitsLen(), c.Hidden)

	l = n.module(Prior)
	n.prior = l.mlp(priorLayers, c.Hidden, c.LogitsLen(), 1, c.Deter)
	n.prior.joint = l.joint(cfg)

	l = n.module(Actor)
	n.actor.in = l.hidden("in", c.Units, c.Deter, c.StochLen())
	headIn := []int{c.Units}
	if c.Recurrent {
		for i, name := range []string{"reset", "candidate", "update"} {
			n.actor.gru[i] = l.linear("gru_"+name, 1, c.PolicyUnits, c.Units, c.PolicyUnits)
		}
		headIn = append(headIn, c.PolicyUnits)
	}
	n.actor.head = *l.mlp(c.Layers, c.Units, c.Actions, actorGain, headIn...)

	feat := []int{c.Deter, c.StochLen()}
	n.heads[Decoder] = n.module(Decoder).mlp(c.Layers, c.Units, c.Obs, 1, feat...)
	n.heads[Reward] = n.module(Reward).mlp(1, c.Units, c.Bins, 0, feat...)
	n.heads[Continue] = n.module(Continue).mlp(1, c.Units, 1, 1, feat...)
	n.heads[Critic] = n.module(Critic).mlp(c.Layers, c.Units, c.Bins, 0, feat...)
	return n
}

// actorGain scales the initial output layer of the policy, so that it starts
// close to uniform (DreamerV3).
const actorGain = 0.01

func (n *networks) module(name string) *layout {
	l := &layout{name: name}
	n.layouts = append(n.layouts, l)
	return l
}

func (l *layout) mlp(layers, units, out int, gain float64, in ...int) *mlp {
	m := &mlp{}
	for i := range layers {
		m.hidden = append(m.hidden, l.hidden("layer"+strconv.Itoa(i), units, in...))
		in = []int{units}
	}
	if out > 0 {
		m.out = l.linear("out", gain, out, in...)
	}
	return m
}

// packs are the jobs that load every layer from *params.
func (m *mlp) packs(params *[]float32, backward bool) []func() {
	layers := m.hidden
	if m.out != nil {
		layers = append(layers[:len(layers):len(layers)], m.out)
	}
	list := packs(layers, params, backward)
	if m.joint != nil {
		list = append(list, func() { m.joint.load(*params) })
	}
	return list
}

func packs(layers []*layer, params *[]float32, backward bool) []func() {
	var list []func()
	for _, l := range layers {
		list = append(list, func() { l.load(*params, backward) })
	}
	return list
}
