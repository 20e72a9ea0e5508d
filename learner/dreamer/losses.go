package dreamer

import (
	"context"
	"math/rand/v2"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Losses are the world model's on a batch, without a gradient step: kl of the posterior from the prior in nats, before
// free nats; reconstruction, reward and continue as they are trained. The context rows that the batch's Refs ask for
// are those of Train's Refresh. Latents are drawn from the same stream in every call, so that the same parameters have
// the same losses; nothing of the agent changes.
func (a *Agent) Losses(ctx context.Context, p *protocol.Batch) (losses map[string]float64, rows []float32, err error) {
	if err := a.batch.load(a.cfg, p); err != nil {
		return nil, nil, err
	}
	low, high, size := a.norm.Low, a.norm.High, *a.size
	defer func() { a.norm.Low, a.norm.High, *a.size = low, high, size }()
	a.batch.draw(a.cfg, rand.New(rand.NewPCG(0x6c6f73736573, 0)))
	if err := a.gradients(ctx); err != nil {
		return nil, nil, err
	}
	losses = map[string]float64{"kl": a.kl.mean}
	for i, name := range []string{1: "reconstruction", 2: "reward", 3: "continue"} {
		if name != "" {
			losses[name] = float64(a.program.Value(a.losses[i])[0])
		}
	}
	return losses, a.refresh(p).Context, nil
}
