package a2c

import (
	"fmt"
	"runtime"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Config is the learning algorithm's. The networks' shape is in Model.
type Config struct {
	Model model.ActorCriticConfig

	BatchSize   int // rollouts in a batch
	BatchLength int // steps of a rollout, its last one for the bootstrap

	Horizon         float64 // the discount is 1 - 1/Horizon
	Lambda          float64 // of the generalised advantage estimate
	Entropy         float64 // weight of the policy's entropy
	EntropyHalfLife int64   // updates in which that weight falls by half, down to a tenth; 0: it stays

	ActorRate  float64 // learning rate of the policy and of the memory
	CriticRate float64
	Warmup     int64   // updates over which the learning rates rise to their values
	HalfLife   int64   // updates in which they then fall by half, down to a tenth; 0: they stay
	Clip       float64 // AGC; 0: none

	ReturnRate float64 // of the moving averages that scale returns and advantages
	// Advantages are divided by the range of the returns or, where set, by
	// their own mean absolute value, and then put through symlog.
	ScaleByAdvantage bool
	Threads          int
}

// ConfigOf is what a run's configuration says of the agent, for an environment
// with so many values in an observation, RL²'s included, and so many actions.
func ConfigOf(c protocol.Config, obs, actions int) Config {
	m, l := c.Model, c.Learner
	threads := l.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return Config{
		Model: model.ActorCriticConfig{
			Obs: obs, Actions: actions, Units: m.Units, Layers: m.Layers,
			Recurrent: m.Policy == "gru", MemoryUnits: m.PolicyUnits, Unimix: float32(l.Unimix),
		},
		BatchSize: l.BatchSize, BatchLength: l.BatchLength,
		Horizon: l.Horizon, Lambda: l.Lambda, Entropy: l.Entropy, EntropyHalfLife: l.EntropyHalfLife,
		ActorRate: l.ActorLR, CriticRate: l.CriticLR, Warmup: l.Warmup, HalfLife: l.LRHalfLife, Clip: l.AGC,
		ReturnRate: l.ReturnRate, ScaleByAdvantage: l.AdvantageScale == "advantages", Threads: threads,
	}
}

// Validate names the first setting that cannot work and says what would.
func (c Config) Validate() error {
	if err := c.Model.Validate(); err != nil {
		return err
	}
	fail := func(name string, value any, want string) error {
		return fmt.Errorf("a2c: %s is %v; it must be %s", name, value, want)
	}
	unit := func(x float64) bool { return x >= 0 && x <= 1 }
	switch {
	case c.BatchSize < 1:
		return fail("batch_size", c.BatchSize, "at least 1")
	case c.BatchLength < 2:
		return fail("batch_length", c.BatchLength, "at least 2")
	case c.Horizon < 1:
		return fail("horizon", c.Horizon, "at least 1")
	case !unit(c.Lambda):
		return fail("lambda", c.Lambda, "between 0 and 1")
	case c.Entropy < 0:
		return fail("entropy", c.Entropy, "at least 0")
	case c.ActorRate <= 0 || c.CriticRate <= 0:
		return fail("learning rates", []float64{c.ActorRate, c.CriticRate}, "positive")
	case c.Warmup < 0 || c.HalfLife < 0 || c.EntropyHalfLife < 0:
		return fail("warmup and half-lives", []int64{c.Warmup, c.HalfLife, c.EntropyHalfLife}, "at least 0")
	case c.Clip < 0:
		return fail("agc", c.Clip, "at least 0")
	case !unit(c.ReturnRate):
		return fail("return_rate", c.ReturnRate, "between 0 and 1")
	case c.Threads < 1:
		return fail("threads", c.Threads, "at least 1")
	}
	return nil
}

// schedule is the share of the learning rates that applies after so many updates.
func (c Config) schedule(step int64) float64 {
	return learner.Schedule{Warmup: c.Warmup, HalfLife: c.HalfLife}.At(step)
}

// entropy is the weight of the policy's entropy after so many updates.
func (c Config) entropy(step int64) float64 {
	return c.Entropy * learner.Schedule{HalfLife: c.EntropyHalfLife}.At(step)
}
