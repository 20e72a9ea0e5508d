package dreamer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/learner/internal/batchtest"
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
	feedForward.HalfLife = 50
	gaussian := base
	gaussian.Model.Gaussian, gaussian.Model.Blocks, gaussian.Model.Stoch = true, 4, 2
	gaussian.ScaleByAdvantage, gaussian.ImagineGroup = true, 4
	autoregressive := base
	autoregressive.Model.Autoregressive = true
	// So many sequences and rollouts that the scans take them in several blocks,
	// the last of them smaller.
	blocks := base
	blocks.BatchSize, blocks.BatchLength, blocks.ImagineLast, blocks.ImagineLength = 12, 6, 6, 2
	return map[string]Config{"recurrent": base, "feed-forward": feedForward, "gaussian": gaussian, "autoregressive": autoregressive, "blocks": blocks}
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

// newBatchOf makes a batch with trial borders inside its sequences: of every five
// the first starts a trial at its first step, the second in its middle, where the
// trial before ends, the third at its last step, and the others lie in the middle
// of a trial. Most begin from a context.
func newBatchOf(c Config, seed uint64) *protocol.Batch {
	r := rand.New(rand.NewPCG(seed, 5))
	m := c.Model
	p := batchtest.New(r, c.BatchSize, c.BatchLength, m.Obs, m.Actions, m.ContextLen())
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
	for b := range p.Size {
		switch end := (b + 1) * p.Length; b % 5 {
		case 0:
			first(b, 0)
		case 1:
			p.Flags[end-3] = flagLast | flagTerminal
			first(b, p.Length-2)
		case 2:
			// A trial that was cut: the return goes on behind its last step.
			p.Flags[end-2] = flagLast
			first(b, p.Length-1)
		}
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
	return []float32{a.norm.Low, a.norm.High, a.size.Mean, a.size.Seen}
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

// slope is the derivative of loss along a direction in one tensor, the central
// difference over a step of length eps.
func slope(loss func(weights) float64, at weights, name string, direction vec) float64 {
	const eps = 1e-5
	by := eps / norm(direction)
	original := at[name]
	move := func(by float64) float64 {
		moved := append(vec(nil), original...)
		for i := range moved {
			moved[i] += by * direction[i]
		}
		at[name] = moved
		return loss(at)
	}
	d := (move(by) - move(-by)) / (2 * by)
	at[name] = original
	return d
}

func norm(x vec) float64 {
	var sum float64
	for _, v := range x {
		sum += v * v
	}
	return math.Sqrt(sum)
}

// probe is the slope of a loss along a direction in one tensor.
type probe struct {
	direction vec
	slope     float64
}

// probes measures along two random directions, with which no gradient has
// anything to do. Their values are of size one, so that the gradient's product
// with them is about as large as its norm.
func probes(loss func(weights) float64, at weights, name string) []probe {
	r := rand.New(rand.NewPCG(11, 12))
	all := make([]probe, 2)
	for k := range all {
		d := make(vec, len(at[name]))
		for i := range d {
			d[i] = r.NormFloat64()
		}
		all[k] = probe{d, slope(loss, at, name, d)}
	}
	return all
}

// checkTensor compares the gradient of one tensor with the slopes along the
// probes, where a value that is missing shows, and along itself, where one that
// is too large shows best. scale is the size of gradients in whose presence this
// one counts as zero.
func checkTensor(loss func(weights) float64, at weights, name string, grad []float32, scale float64, along []probe) error {
	if len(at[name]) != len(grad) {
		return fmt.Errorf("%s: gradient of %d values for %d parameters", name, len(grad), len(at[name]))
	}
	claimed := widen(grad)
	size := norm(claimed)
	zero := !(size > 1e-7*scale)
	tolerance := gradientTolerance * size
	if zero {
		tolerance = 1e-5 * scale * math.Sqrt(float64(len(grad)))
	}
	for _, p := range along {
		if want := dot(p.direction, grad); !(math.Abs(p.slope-want) <= tolerance) {
			return fmt.Errorf("%s: slope %.9g along a random direction, by the gradient %.9g; its norm is %.9g", name, p.slope, want, size)
		}
	}
	if zero {
		return nil
	}
	if measured := slope(loss, at, name, claimed) / size; !(math.Abs(measured-size) <= tolerance) {
		return fmt.Errorf("%s: slope %.9g along the gradient, of norm %.9g", name, measured, size)
	}
	return nil
}

// checkGradients checks every tensor, and as negative controls that the same
// check refuses gradients that are 5 % too large, whose values are in the wrong
// places, and of which a half is missing.
func checkGradients(t *testing.T, loss func(weights) float64, at weights, grads []model.Tensor) {
	t.Helper()
	var scale float64
	for _, g := range grads {
		scale = math.Hypot(scale, norm(widen(g.Data)))
	}
	if scale == 0 {
		t.Error("all gradients are zero")
	}
	for _, g := range grads {
		along := probes(loss, at, g.Name)
		if err := checkTensor(loss, at, g.Name, g.Data, scale, along); err != nil {
			t.Error(err)
			continue
		}
		size := norm(widen(g.Data))
		if !(size > 1e-6*scale) {
			continue
		}
		refused := func(what string, change func(wrong []float32)) {
			t.Helper()
			wrong := slices.Clone(g.Data)
			change(wrong)
			if checkTensor(loss, at, g.Name, wrong, scale, along) == nil {
				t.Errorf("%s: a gradient %s passes", g.Name, what)
			}
		}
		refused("that is 5 % too large", func(wrong []float32) {
			for i := range wrong {
				wrong[i] *= 1.05
			}
		})
		if len(g.Data) < 3 {
			continue
		}
		refused("shifted by one place", func(wrong []float32) {
			copy(wrong, g.Data[1:])
			wrong[len(wrong)-1] = g.Data[0]
		})
		refused("with a half of zeros", func(wrong []float32) {
			half := wrong[:len(wrong)/2]
			if norm(widen(half)) < size/2 { // it has too little to lose
				half = wrong[len(wrong)/2:]
			}
			clear(half)
		})
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
