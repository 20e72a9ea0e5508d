package dreamer

import (
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Tests of RL² (arXiv 1611.02779): memory lives through the episodes of a trial
// and ends with it.

func forwardOf(t *testing.T, c Config, change func(p *protocol.Batch)) *Agent {
	t.Helper()
	a := newAgent(t, c)
	p := newBatchOf(c, 1)
	for i := range p.Flags {
		p.Flags[i] = 0
	}
	change(p)
	if err := a.batch.load(c, p); err != nil {
		t.Fatal(err)
	}
	a.batch.draw(c, a.rng)
	if err := a.gradients(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// memory is all recurrent state of sequence b after step t: deterministic state
// and what the policy carries to step t+1.
func memory(a *Agent, b, t int) []float32 {
	m, size := a.cfg.Model, a.cfg.BatchSize
	row, next := t*size+b, (t+1)*size+b
	return slices.Concat(a.feat.states.Deter[row*m.Deter:(row+1)*m.Deter],
		a.imaginer.PolicyStates()[next*m.PolicyUnits:(next+1)*m.PolicyUnits])
}

// A trial's first step forgets everything before it: sequences of different
// pasts are the same from there on. An episode's start inside a trial, and its
// end, forget nothing.
func TestTrialsResetMemoryAndEpisodesDoNot(t *testing.T) {
	c := variants()["recurrent"]
	const at = 2 // the step that is flagged
	for _, test := range []struct {
		name   string
		flags  uint8
		forget bool
	}{
		{"nothing", 0, false},
		{"start of an episode", 2, false},
		{"start of a trial", flagFirst | 2, true},
	} {
		flag := func(p *protocol.Batch) { p.Flags[at] = test.flags }
		one := forwardOf(t, c, flag)
		two := forwardOf(t, c, func(p *protocol.Batch) {
			flag(p)
			for i := range c.Model.Obs * at { // another past: observations, actions and context
				p.Obs[i] += 1
			}
			p.Action[at-1] = (p.Action[at-1] + 1) % uint16(c.Model.Actions)
			clear(p.Context[:p.ContextLen])
		})
		if slices.Equal(memory(one, 0, at-1), memory(two, 0, at-1)) {
			t.Fatal("the two pasts leave the same memory")
		}
		if got := slices.Equal(memory(one, 0, at), memory(two, 0, at)); got != test.forget {
			t.Errorf("%s: the past is forgotten: %v, want %v", test.name, got, test.forget)
		}
		if got := slices.Equal(one.imaginer.PolicyStates()[:c.Model.PolicyUnits], make([]float32, c.Model.PolicyUnits)); got {
			t.Errorf("%s: the sequence does not start from its context", test.name)
		}
		if !slices.Equal(memory(one, 1, at), memory(two, 1, at)) {
			t.Errorf("%s: another sequence changed", test.name)
		}
	}
	// A row of zeros is the state before a trial: flagged or not, it is the same.
	for _, flags := range []uint8{0, flagFirst} {
		one := forwardOf(t, c, func(p *protocol.Batch) { clear(p.Context[:p.ContextLen]); p.Flags[0] = flags })
		two := forwardOf(t, c, func(p *protocol.Batch) { p.Flags[0] = flagFirst })
		if !slices.Equal(memory(one, 0, 3), memory(two, 0, 3)) {
			t.Errorf("flags %d: a context of zeros is not the state before a trial", flags)
		}
	}
}

// Imagination goes on from the memory that the replayed roll has built: the
// rollout from a step starts with the policy's state before that step, and what
// happened earlier changes how it acts.
func TestReplayedRollThenImagination(t *testing.T) {
	c := variants()["recurrent"]
	g, size := c.Model.PolicyUnits, c.BatchSize
	c.ImagineGroup = 2
	a := forwardOf(t, c, func(*protocol.Batch) {})
	k, n := c.starts(), c.rollouts()
	at := toWeights(a.params.Tensors())
	states := refStatesOf(a)
	first := (c.BatchLength - k) * size
	for i := range n {
		row := first + i/c.ImagineGroup
		logits, _ := at.act(c.Model, states[row], widen(a.imaginer.PolicyStates()[row*g:(row+1)*g]))
		mask := a.batch.rollout.Mask[row*c.Model.Actions : (row+1)*c.Model.Actions]
		near(t, "first imagined decision", a.imaginer.Probs[i*c.Model.Actions:(i+1)*c.Model.Actions], actionProbs(c.Model, logits, mask), 1e-5)
		if got := a.imaginer.Mask()[(n+i)*c.Model.Actions : (n+i+1)*c.Model.Actions]; !slices.Equal(got, mask) {
			t.Errorf("rollout %d does not keep its start's mask", i)
		}
	}
	forgetful := forwardOf(t, c, func(p *protocol.Batch) {
		for i := range p.Flags {
			p.Flags[i] = flagFirst
		}
	})
	for _, v := range forgetful.imaginer.PolicyStates() {
		if v != 0 {
			t.Fatal("the policy remembers across trials")
		}
	}
}

// refStatesOf is the replayed states by row.
func refStatesOf(a *Agent) []refState {
	b := &bench{Agent: a, rows: a.cfg.BatchSize * a.cfg.BatchLength}
	return b.states()
}
