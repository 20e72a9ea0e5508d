package dreamer

import (
	"fmt"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
)

// Config is the learning algorithm's. The model's shape is in Model.
type Config struct {
	Model model.Config

	BatchSize   int // sequences in a batch
	BatchLength int // steps of a sequence

	Horizon       float64 // the discount is 1 - 1/Horizon
	ImagineLength int     // steps of an imagined rollout
	ImagineLast   int     // rollouts start from so many last steps of each sequence; 0: from all
	ImagineGroup  int     // rollouts from each of these, whose latents share their chances and that are each other's baseline
	Lambda        float64 // of the lambda-return
	Entropy       float64 // weight of the policy's entropy
	ActorStart    int64   // updates before the policy learns: a young world model misleads it
	PriorStart    int64   // updates before an autoregressive prior is more than an independent one

	EntropyHalfLife int64 // updates in which that weight then falls by half, down to a tenth; 0: it stays

	ModelRate  float64 // learning rate of the world model
	ActorRate  float64
	CriticRate float64
	Warmup     int64   // updates over which the learning rates rise to their values
	HalfLife   int64   // updates in which they then fall by half, down to a tenth; 0: they stay
	Clip       float64 // AGC; 0: none

	FreeNats       float64
	Reconstruction float64 // weight of the reconstruction loss
	ReplayValue    float64 // weight of the critic's loss on replayed sequences
	SlowRate       float64 // the slow critic's share of the critic at each update
	ReturnRate     float64 // of the moving averages that scale advantages
	// Advantages are divided by the range of the returns (DreamerV3) or, where
	// set, by their own mean absolute value, and then put through symlog. A
	// range wide from rare bad states drowns the differences between good
	// actions in the entropy bonus, and where costs have heavy tails a few
	// huge advantages, mostly chance, would make up the gradient.
	ScaleByAdvantage bool
	Threads          int

	// ParamsType is that of the values in what Params returns; empty: float32.
	// Training and Save know nothing of it.
	ParamsType model.DType
}

// Weights that DreamerV3 fixes (table "Hyperparameters").
const (
	dynamicsWeight       = 1.0
	representationWeight = 0.1
)

// Validate names the first setting that cannot work and says what would.
func (c Config) Validate() error {
	if err := c.Model.Validate(); err != nil {
		return err
	}
	fail := func(name string, value any, want string) error {
		return fmt.Errorf("dreamer: %s is %v; it must be %s", name, value, want)
	}
	unit := func(x float64) bool { return x >= 0 && x <= 1 }
	switch {
	case c.BatchSize < 1:
		return fail("batch_size", c.BatchSize, "at least 1")
	case c.BatchLength < 2:
		return fail("batch_length", c.BatchLength, "at least 2")
	case c.Horizon < 1:
		return fail("horizon", c.Horizon, "at least 1")
	case c.ImagineLength < 1:
		return fail("imagine_length", c.ImagineLength, "at least 1")
	case c.ImagineLast < 0 || c.ImagineLast == 1 || c.ImagineLast > c.BatchLength:
		return fail("imagine_last", c.ImagineLast, fmt.Sprintf("0 for all steps, or 2 to batch_length (%d)", c.BatchLength))
	case c.ImagineGroup < 1:
		return fail("imagine_group", c.ImagineGroup, "at least 1")
	case !unit(c.Lambda):
		return fail("lambda", c.Lambda, "between 0 and 1")
	case c.Entropy < 0:
		return fail("entropy", c.Entropy, "at least 0")
	case c.ModelRate <= 0 || c.ActorRate <= 0 || c.CriticRate <= 0:
		return fail("learning rates", []float64{c.ModelRate, c.ActorRate, c.CriticRate}, "positive")
	case c.Warmup < 0 || c.HalfLife < 0 || c.EntropyHalfLife < 0:
		return fail("warmup and half-lives", []int64{c.Warmup, c.HalfLife, c.EntropyHalfLife}, "at least 0")
	case c.ActorStart < 0 || c.PriorStart < 0:
		return fail("starts", []int64{c.ActorStart, c.PriorStart}, "at least 0")
	case c.Clip < 0:
		return fail("agc", c.Clip, "at least 0")
	case c.FreeNats < 0 || c.Reconstruction < 0 || c.ReplayValue < 0:
		return fail("loss weights", []float64{c.FreeNats, c.Reconstruction, c.ReplayValue}, "at least 0")
	case !unit(c.SlowRate) || !unit(c.ReturnRate):
		return fail("slow_rate and return_rate", []float64{c.SlowRate, c.ReturnRate}, "between 0 and 1")
	case c.ParamsType != "" && c.ParamsType != model.F32 && c.ParamsType != model.BF16:
		return fail("params_type", c.ParamsType, fmt.Sprintf("%s or %s", model.F32, model.BF16))
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
	return c.Entropy * learner.Schedule{HalfLife: c.EntropyHalfLife}.At(max(0, step-c.ActorStart))
}

// rollouts is the number of imagined rollouts.
func (c Config) rollouts() int { return c.starts() * c.BatchSize * c.ImagineGroup }

// starts is the number of steps of each sequence from which rollouts start.
func (c Config) starts() int {
	if c.ImagineLast == 0 {
		return c.BatchLength
	}
	return c.ImagineLast
}
