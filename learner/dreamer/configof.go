package dreamer

import (
	"runtime"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// paramsTypes are the values of learner.params_encoding.
var paramsTypes = map[string]model.DType{"float32": model.F32, "bfloat16": model.BF16}

// ConfigOf is what a run's configuration says of the agent, for an environment
// with so many values in an observation, RL²'s included, and so many actions.
func ConfigOf(c protocol.Config, obs, actions int) Config {
	m, l := c.Model, c.Learner
	threads := l.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return Config{
		Model: model.Config{
			Obs: obs, Actions: actions,
			Deter: m.Deter, Hidden: m.Hidden, Stoch: m.Stoch, Classes: m.Classes, Blocks: m.Blocks,
			Autoregressive: m.Prior == "autoregressive", Gaussian: m.Latent == "gaussian",
			Units: m.Units, Layers: m.Layers, Bins: m.Bins,
			Recurrent: m.Policy == "gru", PolicyUnits: m.PolicyUnits,
			Unimix: float32(l.Unimix),
		},
		BatchSize: l.BatchSize, BatchLength: l.BatchLength,
		Horizon: l.Horizon, ImagineLength: l.ImagineLength, ImagineLast: l.ImagineLast, ImagineGroup: l.ImagineGroup, Lambda: l.Lambda,
		Entropy: l.Entropy, EntropyHalfLife: l.EntropyHalfLife, ScaleByAdvantage: l.AdvantageScale == "advantages", ActorStart: l.ActorStart, PriorStart: l.PriorStart,
		ModelRate: l.ModelLR, ActorRate: l.ActorLR, CriticRate: l.CriticLR, Warmup: l.Warmup, HalfLife: l.LRHalfLife, Clip: l.AGC,
		FreeNats: l.FreeNats, Reconstruction: l.Reconstruction, ReplayValue: l.ReplayValue,
		SlowRate: l.SlowRate, ReturnRate: l.ReturnRate, Threads: threads,
		ParamsType: paramsTypes[l.ParamsEncoding],
	}
}
