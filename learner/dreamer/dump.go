package dreamer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Dump makes one training step on a batch and writes all that went into it and
// all that came out as a safetensors file, so that the step can be computed
// again elsewhere and compared. docs/formats.md lists the tensors.
func (a *Agent) Dump(w io.Writer, p *protocol.Batch) error {
	settings, err := json.Marshal(a.cfg)
	if err != nil {
		return fmt.Errorf("dreamer: writing the settings: %w", err)
	}
	file := model.File{Metadata: map[string]string{"config": string(settings)}}
	add := func(name string, data []float32, shape ...int) {
		file.Tensors = append(file.Tensors, model.Tensor{Name: name, Shape: shape, Data: append([]float32(nil), data...)})
	}
	group := func(prefix string, of []model.Tensor, data []float32) {
		at := 0
		for _, t := range of {
			add(prefix+t.Name, data[at:at+len(t.Data)], t.Shape...)
			at += len(t.Data)
		}
	}
	params := a.params.Tensors()
	critic := a.params.Module(model.Critic).Tensors
	state := func(prefix string) {
		group(prefix+"params/", params, a.params.Data)
		group(prefix+"momentum/", params, a.opt.M)
		group(prefix+"mean_square/", params, a.opt.V)
		group(prefix+"slow/", critic, a.slow)
		add(prefix+"return_range", []float32{a.norm.Low, a.norm.High}, 2)
		add(prefix+"advantage_size", []float32{a.size.Mean, a.size.Seen}, 2)
		add(prefix+"step", []float32{float32(a.opt.Step)})
	}
	state("before/")
	result, err := a.Train(context.Background(), p)
	if err != nil {
		return err
	}
	if result.Skipped {
		return fmt.Errorf("dreamer: the step has a loss or gradient that is not finite")
	}
	state("after/")
	group("grads/", params, slices.Concat(a.grads...))
	for i, name := range lossNames {
		add(name, a.program.Value(a.losses[i])[:1])
	}
	add("loss/total", a.program.Value(a.total)[:1])

	c, m, d := a.cfg, a.cfg.Model, a.batch
	t, b, k, h := c.BatchLength, c.BatchSize, c.starts(), c.ImagineLength
	n := c.rollouts()
	floats := func(x []int32) []float32 {
		y := make([]float32, len(x))
		for i, v := range x {
			y[i] = float32(v)
		}
		return y
	}
	bools := func(x []bool) []float32 {
		y := make([]float32, len(x))
		for i, v := range x {
			if v {
				y[i] = 1
			}
		}
		return y
	}
	latents := func(name string, z model.Latents, shape ...int) {
		if m.Gaussian {
			add(name, z.Value, append(shape, m.StochLen())...)
			return
		}
		add(name, floats(z.Index), append(shape, m.Stoch)...)
	}
	add("batch/observation", d.raw, t, b, m.Obs)
	add("batch/action", floats(d.action), t, b)
	add("batch/previous_action", floats(d.sequence.PrevAction), t, b)
	add("batch/reward", d.reward, t, b)
	add("batch/continue", d.live, t, b)
	add("batch/first", bools(d.sequence.First), t, b)
	add("batch/last", bools(d.last), t, b)
	add("batch/mask", bools(d.rollout.Mask), t, b, m.Actions)
	add("batch/start/deter", d.sequence.Start.Deter, b, m.Deter)
	latents("batch/start/stoch", d.sequence.Start.Stoch, b)
	add("batch/start/policy", d.rollout.PolicyStart, b, m.PolicyState())
	add("draws/posterior", d.sequence.Draw, t, b, m.DrawLen())
	add("draws/prior", d.rollout.Draw, h, n, m.DrawLen())
	add("draws/action", d.rollout.ActionDraw, h, n)
	latents("samples/posterior", a.feat.states.Stoch, t, b)
	latents("samples/imagined", a.imaginer.States.Stoch, h+1, n)
	add("samples/action", floats(a.imaginer.Actions), h, n)
	add("states/posterior_deter", a.feat.states.Deter, t, b, m.Deter)
	add("states/imagined_deter", a.imaginer.States.Deter, h+1, n, m.Deter)
	add("returns/imagined", a.returns.ret, h, n)
	add("returns/advantage", a.returns.advantage, h, n)
	add("returns/weight", a.returns.weight, h, n)
	add("returns/replayed", a.returns.replayRet, k-1, b)
	if _, err := file.WriteTo(w); err != nil {
		return fmt.Errorf("dreamer: writing the dump: %w", err)
	}
	return nil
}
