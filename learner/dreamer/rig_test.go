package dreamer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// variants are the shapes that every check runs on.
func variants() map[string]Config {
	base := Config{
		Model: model.Config{
			Obs: 5, Actions: 3, Deter: 8, Hidden: 6, Stoch: 3, Classes: 4, Blocks: 2,
			Units: 7, Layers: 2, Bins: 41, Recurrent: true, PolicyUnits: 5, Unimix: 0.01,
		},
		BatchSize: 3, BatchLength: 6, Horizon: 20, ImagineLength: 3, ImagineLast: 4, ImagineGroup: 1, Lambda: 0.9, Entropy: 0.05,
		ModelRate: 1e-3, ActorRate: 3e-4, CriticRate: 5e-4, Warmup: 10, Clip: 0.3,
		FreeNats: 0.4, Reconstruction: 2, ReplayValue: 0.3, SlowRate: 0.02, ReturnRate: 0.01, Threads: 1,
	}
	feedForward := base
	feedForward.Model.Recurrent, feedForward.Model.Blocks, feedForward.Model.Layers = false, 1, 1
	feedForward.ImagineLast, feedForward.ImagineGroup = 0, 3
	gaussian := base
	gaussian.Model.Gaussian, gaussian.Model.Blocks, gaussian.Model.Stoch = true, 4, 2
	gaussian.ScaleByAdvantage, gaussian.ImagineGroup = true, 4
	return map[string]Config{"recurrent": base, "feed-forward": feedForward, "gaussian": gaussian}
}

// newAgent makes an agent whose parameters are all away from their initial
// values: output layers that start at zero would hide what lies behind them.
// Reward and critic prefer bins around zero, as trained ones do.
func newAgent(t testing.TB, c Config) *Agent {
	t.Helper()
	a, err := New(c, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	r := rand.New(rand.NewPCG(3, 4))
	for i := range a.params.Data {
		a.params.Data[i] += float32(0.2 * r.NormFloat64())
	}
	for _, name := range []string{model.Reward, model.Critic} {
		for _, tensor := range a.params.Module(name).Tensors {
			if tensor.Name == name+"/out/bias" {
				for i := range tensor.Data {
					tensor.Data[i] -= 1.5 * float32(math.Abs(float64(i-c.Model.Bins/2)))
				}
			}
		}
	}
	copy(a.slow, a.params.Module(model.Critic).Data)
	for i := range a.slow {
		a.slow[i] += float32(0.1 * r.NormFloat64())
	}
	a.opt.Step = 100
	return a
}

// newBatchOf makes a batch with trial borders inside its sequences: sequence 0
// starts a trial at its first step, sequence 1 in its middle, where the trial
// before ends; the others begin in the middle of a trial, from a context.
func newBatchOf(c Config, seed uint64) *protocol.Batch {
	r := rand.New(rand.NewPCG(seed, 5))
	m := c.Model
	p := &protocol.Batch{}
	p.Resize(c.BatchSize, c.BatchLength, m.Obs, m.Actions, m.ContextLen())
	clear(p.Flags)
	for i := range p.Obs {
		p.Obs[i] = float32(3 * r.NormFloat64())
	}
	for i := range p.Action {
		p.Action[i] = uint16(r.IntN(m.Actions))
		p.Reward[i] = float32(2 * r.NormFloat64())
		for j := range m.Actions {
			p.Mask[i*m.Actions+j] = j == int(p.Action[i]) || r.IntN(4) > 0
		}
	}
	for b := range p.Size {
		s := model.NewStates(m, 1)
		for i := range s.Deter {
			s.Deter[i] = float32(r.Float64()*2 - 1)
		}
		for i := range s.Stoch.Index {
			s.Stoch.Index[i] = int32(r.IntN(m.Classes))
		}
		for i := range s.Stoch.Value {
			s.Stoch.Value[i] = float32(r.NormFloat64())
		}
		policy := make([]float32, m.PolicyState())
		for i := range policy {
			policy[i] = float32(r.Float64()*2 - 1)
		}
		m.PackContext(p.Context[b*p.ContextLen:(b+1)*p.ContextLen], s, policy, int32(r.IntN(m.Actions)))
	}
	first := func(b, t int) { p.Flags[b*p.Length+t] = flagFirst | 2; p.Reward[b*p.Length+t] = 0 }
	first(0, 0)
	if p.Size > 1 {
		mid := p.Length - 2
		p.Flags[p.Length+mid-1] = flagLast | flagTerminal
		first(1, mid)
	}
	if p.Size > 2 {
		// A trial that was cut: the return goes on behind its last step.
		p.Flags[2*p.Length+p.Length-2] = flagLast
		first(2, p.Length-1)
	}
	return p
}

// refStepOf is the step that the agent has just computed gradients of.
// norm is the normaliser before it.
func refStepOf(a *Agent, norm vec) *refStep {
	d := a.batch
	return &refStep{
		cfg: a.cfg, obs: d.raw, reward: d.reward, live: d.live, last: d.last, mask: d.rollout.Mask,
		sequence: d.sequence, policyStart: d.rollout.PolicyStart, priorDraw: d.rollout.Draw,
		posterior: a.feat.states.Stoch, imagined: a.imaginer.States.Stoch, action: a.imaginer.Actions,
		slow: toWeights(like(a.params.Module(model.Critic).Tensors, a.slow)),
		norm: norm, actor: a.actor.active,
	}
}

// normaliser is the state that scales advantages.
func normaliser(a *Agent) []float32 {
	return []float32{a.norm.low, a.norm.high, a.size.size, a.size.seen}
}

// like names the parts of data after tensors that are laid out one after the
// other.
func like(tensors []model.Tensor, data []float32) []model.Tensor {
	var out []model.Tensor
	at := 0
	for _, t := range tensors {
		out = append(out, model.Tensor{Name: t.Name, Shape: t.Shape, Data: data[at : at+len(t.Data)]})
		at += len(t.Data)
	}
	return out
}

const gradientTolerance = 2e-3

// checkTensor compares a gradient with the central difference of loss along the
// gradient's own direction. scale is the size of gradients in whose presence
// this one counts as zero; a zero gradient is checked along a random direction.
func checkTensor(loss func(weights) float64, at weights, name string, grad []float32, scale float64) error {
	direction := widen(grad)
	var norm float64
	for _, g := range direction {
		norm += g * g
	}
	norm = math.Sqrt(norm)
	tolerance := gradientTolerance * norm
	claimed := norm
	if !(norm > 1e-7*scale) {
		r := rand.New(rand.NewPCG(11, 12))
		norm, claimed = 0, 0
		for i := range direction {
			direction[i] = r.NormFloat64()
			norm += direction[i] * direction[i]
		}
		norm = math.Sqrt(norm)
		tolerance = 1e-5 * scale
	}
	const eps = 1e-5
	original := at[name]
	if len(original) != len(grad) {
		return fmt.Errorf("%s: gradient of %d values for %d parameters", name, len(grad), len(original))
	}
	move := func(by float64) float64 {
		moved := append(vec(nil), original...)
		for i := range moved {
			moved[i] += by * direction[i] / norm
		}
		at[name] = moved
		return loss(at)
	}
	measured := (move(eps) - move(-eps)) / (2 * eps)
	at[name] = original
	if !(math.Abs(measured-claimed) <= tolerance) {
		return fmt.Errorf("%s: slope %.9g along the gradient, of norm %.9g", name, measured, claimed)
	}
	return nil
}

// checkGradients checks every tensor, and as negative controls that the same
// check refuses gradients that are 5 % too large, and whose values are in the
// wrong places.
func checkGradients(t *testing.T, loss func(weights) float64, at weights, grads []model.Tensor) {
	t.Helper()
	var scale float64
	for _, g := range grads {
		for _, v := range g.Data {
			scale += float64(v) * float64(v)
		}
	}
	scale = math.Sqrt(scale)
	if scale == 0 {
		t.Error("all gradients are zero")
	}
	for _, g := range grads {
		if err := checkTensor(loss, at, g.Name, g.Data, scale); err != nil {
			t.Error(err)
			continue
		}
		var norm float64
		wrong := make([]float32, len(g.Data))
		for i, v := range g.Data {
			norm += float64(v) * float64(v)
			wrong[i] = 1.05 * v
		}
		if !(math.Sqrt(norm) > 1e-6*scale) {
			continue
		}
		if checkTensor(loss, at, g.Name, wrong, scale) == nil {
			t.Errorf("%s: a gradient that is 5 %% too large passes", g.Name)
		}
		if len(wrong) < 3 {
			continue
		}
		copy(wrong, g.Data[1:])
		wrong[len(wrong)-1] = g.Data[0]
		if checkTensor(loss, at, g.Name, wrong, scale) == nil {
			t.Errorf("%s: a gradient shifted by one place passes", g.Name)
		}
	}
}

// near fails unless got is close to want, relative to the largest of want.
func near(t *testing.T, what string, got []float32, want vec, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	var size, worst float64
	at := 0
	for i, w := range want {
		size = max(size, math.Abs(w))
		if d := math.Abs(float64(got[i]) - w); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= tolerance*max(size, 1e-3)) {
		t.Errorf("%s: value %d is %v, want %v (largest %v)", what, at, got[at], want[at], size)
	}
}

func flat(rows []vec) vec { return join(rows...) }
