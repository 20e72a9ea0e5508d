package model

import "fmt"

// Memory is the module of an actor-critic's recurrent state.
const Memory = "memory"

// ActorCriticConfig is the shape of a model-free actor-critic. The zero value is
// not valid.
//
// With o the symlog of the observation, a the previous action and g the
// recurrent state,
//
//	g' = GRU(hidden(o), a, g)    left out in the feed-forward form
//	π  = actor(o, g')
//	v  = critic(o, g')           a scalar
//
// so that policy and value share the memory and nothing else, and what matters
// at once need not pass the memory's update gate.
type ActorCriticConfig struct {
	Obs     int // width of the agent's observation, reward and episode-start inputs included
	Actions int // number of discrete actions

	Units  int // units of the hidden layers
	Layers int // hidden layers of actor and critic

	Recurrent   bool // there is a GRU (RL²)
	MemoryUnits int  // its units

	Unimix float32 // share of the uniform distribution mixed into the policy
}

// Validate names the first field that cannot work and says what would.
func (c ActorCriticConfig) Validate() error {
	for _, p := range []struct {
		name       string
		value, low int
	}{
		{"obs", c.Obs, 1}, {"actions", c.Actions, 2}, {"units", c.Units, 1}, {"layers", c.Layers, 1}, {"policy_units", c.MemoryUnits, 1},
	} {
		if p.value < p.low || p.value > 1<<16 {
			return fmt.Errorf("model: %s is %d; it must be between %d and %d", p.name, p.value, p.low, 1<<16)
		}
	}
	if c.Unimix < 0 || c.Unimix >= 1 {
		return fmt.Errorf("model: unimix is %v; it must be in [0, 1)", c.Unimix)
	}
	return nil
}

// StateLen is the width of the recurrent state: zero in the feed-forward form.
func (c ActorCriticConfig) StateLen() int {
	if c.Recurrent {
		return c.MemoryUnits
	}
	return 0
}

// ContextLen is the width of a recurrent context row: the carry before a step's
// observation is processed, as [state | action], the previous action plus one,
// so that a row of zeros is the carry before a trial. Without memory there is
// none.
func (c ActorCriticConfig) ContextLen() int {
	if c.Recurrent {
		return c.MemoryUnits + 1
	}
	return 0
}

// Dist is the distribution of the policy's actions.
func (c ActorCriticConfig) Dist() ActionDist { return ActionDist{c.Actions, c.Unimix} }

// actorCritic is every layer of a configuration, laid out in modules.
type actorCritic struct {
	layouts []*layout
	memory  memoryNet
	actor   *mlp // first parts: observation, state
	critic  *mlp
}

// memoryNet is the recurrent part; without layers in the feed-forward form.
type memoryNet struct {
	in  *layer
	gru [3]*layer // reset, candidate, update; parts: in, action, state
}

func newActorCritic(c ActorCriticConfig) *actorCritic {
	n := &actorCritic{}
	module := func(name string) *layout {
		l := &layout{name: name}
		n.layouts = append(n.layouts, l)
		return l
	}
	in := []int{c.Obs}
	if c.Recurrent {
		l := module(Memory)
		n.memory.in = l.hidden("in", c.Units, c.Obs)
		for i, name := range []string{"reset", "candidate", "update"} {
			n.memory.gru[i] = l.linear("gru_"+name, 1, c.MemoryUnits, c.Units, c.Actions, c.MemoryUnits)
		}
		in = append(in, c.MemoryUnits)
	}
	n.actor = module(Actor).mlp(c.Layers, c.Units, c.Actions, actorGain, in...)
	n.critic = module(Critic).mlp(c.Layers, c.Units, 1, 0, in...)
	return n
}

// NewActorCriticParams lays out the parameters of a configuration, all zero, in
// the modules memory (where there is one), actor and critic.
func NewActorCriticParams(c ActorCriticConfig) (*Params, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	acting := []string{Actor}
	if c.Recurrent {
		acting = []string{Memory, Actor}
	}
	return newParams(newActorCritic(c).layouts, acting...), nil
}

// NewActorCriticMLP makes a runner of the network of actor or critic over rows
// rows. Its Input is the symlog of the observations and, where there is one, the
// memory after each.
func NewActorCriticMLP(c ActorCriticConfig, module string, rows int, pool *Pool) *MLP {
	nets := newActorCritic(c)
	net := nets.actor
	if module == Critic {
		net = nets.critic
	}
	return newRunner(Config{}, net, rows, pool, true)
}

// packs are the jobs that load the memory's layers from *params.
func (m *memoryNet) packs(params *[]float32, backward bool) []func() {
	return packs(append([]*layer{m.in}, m.gru[:]...), params, backward)
}
