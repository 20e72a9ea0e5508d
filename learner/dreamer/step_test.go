package dreamer

import (
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/model"
)

// The whole training step: losses, and the gradient of every tensor through the
// Gorgonia graph, against the reference. The reference's own stop-gradients
// make this a check of what must not be trained by what, too.
func TestWholeLoss(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) { checkWholeLoss(t, newAgent(t, c)) })
	}
}

func checkWholeLoss(t *testing.T, a *Agent) {
	var norm vec                              // the normaliser before the last step
	for seed := uint64(2); seed > 0; seed-- { // what the first batch leaves behind must not show
		norm = widen(normaliser(a))
		if err := a.batch.load(a.cfg, newBatchOf(a.cfg, seed)); err != nil {
			t.Fatal(err)
		}
		a.batch.draw(a.cfg, a.rng)
		if err := a.gradients(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	step := refStepOf(a, norm)
	at := toWeights(a.params.Tensors())
	var f freezer
	var r refResult
	want := step.losses(at, &f, &r)
	for i, name := range lossNames {
		near(t, name, a.program.Value(a.losses[i]), vec{want[i]}, 1e-4)
	}
	near(t, "total", a.program.Value(a.total), vec{step.total(want)}, 1e-4)
	near(t, "imagined returns", a.returns.ret, r.returns, 1e-4)
	near(t, "advantages", a.returns.advantage, r.advantage, 1e-4)
	near(t, "weights", a.returns.weight, r.weight, 1e-4)
	near(t, "replayed returns", a.returns.replayRet, r.replayed, 1e-4)
	near(t, "normaliser", normaliser(a), r.norm, 1e-4)

	loss := func(w weights) float64 {
		f.again()
		return step.total(step.losses(w, &f, &r))
	}
	checkGradients(t, loss, at, like(a.params.Tensors(), slices.Concat(a.grads...)))
}

// The same at the size of the preset debug.
func TestWholeLossOfDebugSize(t *testing.T) {
	c := variants()["recurrent"]
	c.Model = model.Config{
		Obs: 24, Actions: 10, Deter: 32, Hidden: 16, Stoch: 4, Classes: 4, Blocks: 4,
		Units: 16, Layers: 1, Bins: 41, Recurrent: true, PolicyUnits: 16, Unimix: 0.01,
	}
	c.BatchSize, c.BatchLength, c.ImagineLength, c.ImagineLast = 4, 8, 4, 4
	c.FreeNats = 1
	checkWholeLoss(t, newAgent(t, c))
}

// What changes when one loss changes: imagination reads the world model and
// trains policy or critic only, the policy's loss is silent until the policy
// may learn, and losses on replayed states reach the RSSM and the encoder.
func TestWhichLossTrainsWhat(t *testing.T) {
	world := []string{model.Encoder, model.RSSM}
	base := variants()["recurrent"]
	for _, test := range []struct {
		name    string
		change  func(c *Config)
		slow    bool // another slow critic
		trained []string
	}{
		{"nothing", func(*Config) {}, false, nil},
		{"policy waits", func(c *Config) { c.ActorStart = 1 << 40 }, false, []string{model.Actor}},
		{"entropy", func(c *Config) { c.Entropy = 1 }, false, []string{model.Actor}},
		{"slow critic", func(*Config) {}, true, []string{model.Critic}},
		{"reconstruction", func(c *Config) { c.Reconstruction = 0 }, false, append([]string{model.Decoder}, world...)},
		{"free nats", func(c *Config) { c.FreeNats = 1e9 }, false, append([]string{model.Prior}, world...)},
		{"replay value", func(c *Config) { c.ReplayValue = 0.9 }, false, append([]string{model.Critic}, world...)},
	} {
		base := base
		if test.slow {
			base.ReplayValue = 0
		}
		changed := base
		test.change(&changed)
		before, after := gradientsOf(t, base, false), gradientsOf(t, changed, test.slow)
		for m := range before {
			if got, want := !slices.Equal(before[m], after[m]), slices.Contains(test.trained, m); got != want {
				t.Errorf("%s: gradient of %s changed: %v, want %v", test.name, m, got, want)
			}
		}
		if test.name == "policy waits" && slices.ContainsFunc(after[model.Actor], func(g float32) bool { return g != 0 }) {
			t.Error("the policy learns before its time")
		}
		if test.name == "free nats" && slices.ContainsFunc(after[model.Prior], func(g float32) bool { return g != 0 }) {
			t.Error("the prior learns below the free nats")
		}
	}
}

// The policy waits for ActorStart updates, and what the latents of an autoregressive prior add to one another for
// PriorStart, and not one more; the rest learns from the first.
func TestStarts(t *testing.T) {
	c := variants()["autoregressive"]
	c.ActorStart, c.PriorStart = 7, 9
	a := newAgent(t, c)
	learns := func(grad []float32) bool { return slices.ContainsFunc(grad, func(g float32) bool { return g != 0 }) }
	for _, step := range []int64{0, 6, 7, 8, 9, 10} {
		a.opt.Step = step
		if err := a.batch.load(c, newBatchOf(c, 1)); err != nil {
			t.Fatal(err)
		}
		a.batch.draw(c, a.rng)
		if err := a.gradients(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range a.params.Modules {
			m := &a.params.Modules[i]
			if want := m.Name != model.Actor || step >= 7; learns(a.grads[i]) != want {
				t.Errorf("after %d updates: %s learns: %v", step, m.Name, !want)
			}
			if joint := m.JointOf(a.grads[i]); m.Name == model.Prior && (len(joint) != 3*c.Model.Classes*c.Model.Classes || learns(joint) != (step >= 9)) {
				t.Errorf("after %d updates: %d gradients among the latents, learning: %v", step, len(joint), learns(joint))
			}
		}
	}
}

func gradientsOf(t *testing.T, c Config, otherSlow bool) map[string][]float32 {
	a := newAgent(t, c)
	if otherSlow {
		for i := range a.slow {
			a.slow[i] /= 2
		}
	}
	if err := a.batch.load(c, newBatchOf(c, 1)); err != nil {
		t.Fatal(err)
	}
	a.batch.draw(c, a.rng)
	if err := a.gradients(t.Context()); err != nil {
		t.Fatal(err)
	}
	grads := map[string][]float32{}
	for i, m := range a.params.Modules {
		grads[m.Name] = a.grads[i]
	}
	return grads
}
