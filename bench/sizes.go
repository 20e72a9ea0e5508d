package bench

import (
	"math/rand/v2"

	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// size is a model that is compared with the widely used PyTorch DreamerV3 of
// the same widths, whose policy is feed-forward. Its figures, of two cores with
// AVX-512, are recorded.
type size struct {
	name    string
	model   model.Config
	seconds map[int]float64 // of PyTorch's train step, by threads
	memory  float64         // of PyTorch's process at its peak, GB
	act     map[int]float64 // milliseconds of PyTorch's acting on one thread, by observations
}

func sizes() []size {
	park := model.Config{Obs: 24, Actions: 10, Blocks: 1, Bins: 255, Unimix: 0.01}
	s, m := park, park
	s.Deter, s.Hidden, s.Stoch, s.Classes, s.Units, s.Layers, s.PolicyUnits = 512, 256, 16, 16, 256, 2, 256
	m.Deter, m.Hidden, m.Stoch, m.Classes, m.Units, m.Layers, m.PolicyUnits = 1024, 512, 32, 32, 512, 3, 512
	return []size{
		{"S", s, map[int]float64{1: 3.98, 2: 2.49}, 2.3, map[int]float64{1: 1.9, 64: 7.0}},
		{"M", m, map[int]float64{1: 15.9, 2: 11.5}, 5.6, nil},
	}
}

// training is DreamerV3's: batches of 16 x 64, rollouts of 15 steps from every
// replayed state.
func (s size) training(threads int) dreamer.Config {
	return dreamer.Config{
		Model: s.model, BatchSize: 16, BatchLength: 64, Horizon: 333, ImagineLength: 15, ImagineGroup: 1, Lambda: 0.95,
		Entropy: 3e-4, ModelRate: 4e-5, ActorRate: 4e-5, CriticRate: 4e-5, Warmup: 1000, Clip: 0.3,
		FreeNats: 1, Reconstruction: 1, ReplayValue: 0.3, SlowRate: 0.02, ReturnRate: 0.01, Threads: threads,
	}
}

// newBatch makes a batch of plausible numbers: the time of a step does not
// depend on them.
func newBatch(c dreamer.Config) *protocol.Batch {
	m := c.Model
	r := rand.New(rand.NewPCG(1, 2))
	p := &protocol.Batch{}
	p.Resize(c.BatchSize, c.BatchLength, m.Obs, m.Actions, m.ContextLen())
	clear(p.Flags)
	clear(p.Context)
	for i := range p.Obs {
		p.Obs[i] = float32(r.ExpFloat64())
	}
	for i := range p.Mask {
		p.Mask[i] = true
	}
	for i := range p.Action {
		p.Action[i] = uint16(r.IntN(m.Actions))
		p.Reward[i] = float32(-r.ExpFloat64())
	}
	return p
}
