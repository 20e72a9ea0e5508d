package a2c

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/learner/returns"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func forEach(t *testing.T, f func(t *testing.T, c Config)) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) { f(t, c) })
	}
}

// stepped is an agent that has computed gradients of a batch, and the reference.
func stepped(t *testing.T, c Config, seed uint64) (*Agent, *reference) {
	t.Helper()
	a, p := newAgent(t, c), newBatchOf(c, seed)
	if err := a.data.load(c, p); err != nil {
		t.Fatal(err)
	}
	if err := a.gradients(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a, &reference{c: c, p: p, eta: c.entropy(100), weights: weightsOf(a.params)}
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*max(1, math.Abs(want))) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// Returns less values are the generalised advantage estimate: it goes on over an
// episode's end inside a trial, ends with a trial, and has the value of a
// rollout's last step, or of one behind which a trial was cut, for what comes.
func TestAdvantages(t *testing.T) {
	forEach(t, func(t *testing.T, c Config) {
		a, r := stepped(t, c, 1)
		mean, deviation := -0.6/0.4, math.Sqrt(3/0.4-1.5*1.5)
		size := returns.Size{Mean: 0.5, Seen: 0.4}
		var used []float32
		raw := make(vec, len(a.returns.ret))
		for b := range c.BatchSize {
			_, values := r.logitsAndValues(b)
			for i := range values {
				values[i] = mean + deviation*values[i]
			}
			for step := range c.BatchLength - 1 {
				row := step*c.BatchSize + b
				if !r.counts(b, step) {
					if a.returns.advantage[row] != 0 {
						t.Errorf("step %d of rollout %d has no return, and the advantage %v", step, b, a.returns.advantage[row])
					}
					continue
				}
				raw[row] = r.advantage(b, step, values)
				used = append(used, float32(raw[row]))
				near(t, "return", float64(a.returns.ret[row]), raw[row]+values[step], 1e-4)
			}
		}
		size.Update(used, c.ReturnRate)
		for row, x := range raw {
			want := x / float64(a.returns.norm.Scale())
			if c.ScaleByAdvantage {
				want = math.Copysign(math.Log1p(math.Abs(x/float64(size.Scale()))), x)
			}
			near(t, "advantage", float64(a.returns.advantage[row]), want, 1e-4)
		}

		// Control: another lambda, or an end that is not seen, would show.
		r.c.Lambda -= 0.2
		_, values := r.logitsAndValues(1)
		if math.Abs(r.advantage(1, 0, values)-raw[1]) < 1e-3 {
			t.Error("the estimate does not depend on lambda")
		}
	})
}

// The losses are the formulas' and their gradients those of finite differences,
// along the gradient's own direction in every tensor.
func TestLossesAndGradients(t *testing.T) {
	forEach(t, func(t *testing.T, c Config) {
		for seed := range uint64(2) {
			a, r := stepped(t, c, seed)
			advantages, targets := widen(a.returns.advantage), widen(a.returns.target)
			actor, critic := r.cost(advantages, targets)
			near(t, "actor's loss", float64(a.program.Value(a.actorLoss)[0]), actor, 1e-5)
			near(t, "critic's loss", float64(a.program.Value(a.critic)[0]), critic, 1e-5)
			near(t, "cost", float64(a.program.Value(a.cost)[0]), actor+critic, 1e-5)
			for i, m := range a.params.Modules {
				at := 0
				for _, tensor := range m.Tensors {
					g := widen(a.grads[i][at : at+len(tensor.Data)])
					at += len(tensor.Data)
					if worst := r.disagreement(tensor.Name, g, advantages, targets); worst > 2e-3 {
						t.Errorf("gradient of %s is off by %.2g of its norm", tensor.Name, worst)
					}
				}
			}
			// Control: a gradient without the entropy's share, or of a tenth more, is found out.
			name := "actor/out/kernel"
			g := widen(a.grads[len(a.grads)-2][a.offset(name) : a.offset(name)+len(r.weights[name])])
			r.eta = 0
			if r.disagreement(name, g, advantages, targets) < 5e-3 {
				t.Error("the check does not see the entropy")
			}
			r.eta = c.entropy(100)
			for k := range g {
				g[k] *= 1.1
			}
			if r.disagreement(name, g, advantages, targets) < 5e-2 {
				t.Error("the check does not see a gradient that is too long")
			}
		}
	})
}

// offset is where an actor's tensor begins in its module.
func (a *Agent) offset(name string) int {
	at := 0
	for _, t := range a.params.Module(model.Actor).Tensors {
		if t.Name == name {
			return at
		}
		at += len(t.Data)
	}
	panic(name)
}

// disagreement compares the length of a gradient with the slope along it.
func (r *reference) disagreement(name string, g, advantages, targets vec) float64 {
	var norm float64
	for _, v := range g {
		norm += v * v
	}
	norm = math.Sqrt(norm)
	if norm < 1e-7 {
		norm = 1e-7
	}
	w := r.weights[name]
	at := func(step float64) float64 {
		saved := slices.Clone(w)
		for i := range w {
			w[i] += step * g[i] / norm
		}
		actor, critic := r.cost(advantages, targets)
		copy(w, saved)
		return actor + critic
	}
	const h = 1e-4
	return math.Abs((at(h)-at(-h))/(2*h)-norm) / max(norm, 1e-3)
}

// The critic's units are free of their start, and targets are in them.
func TestUnits(t *testing.T) {
	var u units
	if m, d := u.of(); m != 0 || d != 1 {
		t.Errorf("units %v, %v before the first update", m, d)
	}
	for range 3 {
		u.update([]float32{1, 5, 100}, []float32{1, 1, 0}, 0.01)
		m, d := u.of()
		near(t, "mean", float64(m), 3, 1e-5)
		near(t, "deviation", float64(d), 2, 1e-4)
	}
	u.update([]float32{9}, []float32{0}, 0.01)
	if m, _ := u.of(); math.Abs(float64(m)-3) > 1e-5 {
		t.Errorf("an update without a step moved the mean to %v", m)
	}
	a, _ := stepped(t, variants()["recurrent"], 1)
	m, d := a.returns.units.of()
	for i, r := range a.returns.ret {
		near(t, "target", float64(a.returns.target[i]), float64((r-m)/d), 1e-4)
	}
}

func TestEntropyFalls(t *testing.T) {
	c := variants()["feed-forward"]
	for step, want := range map[int64]float64{0: 0.5, 30: 0.25, 60: 0.125, 1000: 0.05} {
		near(t, "weight", c.entropy(step), want, 1e-9)
	}
	a := newAgent(t, c)
	for _, step := range []int64{0, 60} {
		a.opt.Step = step
		if _, err := a.Train(t.Context(), newBatchOf(c, 1)); err != nil {
			t.Fatal(err)
		}
		near(t, "weight in the loss", a.actor.eta, c.entropy(step), 1e-9)
	}
}

func saved(t *testing.T, a *Agent) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSaveResumesExactly(t *testing.T) {
	forEach(t, func(t *testing.T, c Config) {
		train := func(a *Agent, seeds ...uint64) {
			for _, s := range seeds {
				if r, err := a.Train(t.Context(), newBatchOf(c, s)); err != nil || r.Skipped {
					t.Fatal(r, err)
				}
			}
		}
		a, b := newAgent(t, c), newAgent(t, c)
		train(a, 1, 2, 3, 4)
		train(b, 1, 2)
		state := saved(t, b)
		other, err := New(c, 99)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := other.Load(bytes.NewReader(state)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(saved(t, other), state) {
			t.Error("loading and saving changed something")
		}
		train(other, 3, 4)
		if !bytes.Equal(saved(t, other), saved(t, a)) {
			t.Error("the resumed agent ends elsewhere")
		}
		for _, bad := range [][]byte{nil, state[:len(state)/2], bytes.Replace(state, []byte("critic/out/bias"), []byte("critic/out/bios"), 1)} {
			if err := other.Load(bytes.NewReader(bad)); err == nil {
				t.Errorf("%d bytes were loaded", len(bad))
			}
		}
	})
}

func TestThreadsDoNotMatter(t *testing.T) {
	forEach(t, func(t *testing.T, c Config) {
		one := newAgent(t, c)
		c.Threads = 3
		three := newAgent(t, c)
		for s := range uint64(3) {
			for _, a := range []*Agent{one, three} {
				if _, err := a.Train(t.Context(), newBatchOf(c, s)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !bytes.Equal(saved(t, one), saved(t, three)) {
			t.Error("three threads make other parameters than one")
		}
	})
}

func TestNothingChangesWithoutAnUpdate(t *testing.T) {
	c := variants()["recurrent"]
	a := newAgent(t, c)
	before := saved(t, a)
	huge := newBatchOf(c, 1)
	for i := range huge.Reward {
		huge.Reward[i] = math.MaxFloat32
	}
	if r, err := a.Train(t.Context(), huge); err != nil || !r.Skipped {
		t.Errorf("%+v, %v of a batch that overflows", r, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Train(ended, newBatchOf(c, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a context that has ended", err)
	}
	for want, spoil := range map[string]func(p *protocol.Batch){
		"batch of 3×6": func(p *protocol.Batch) { p.Length--; p.Obs = p.Obs[:0] },
		"action 9":     func(p *protocol.Batch) { p.Action[0] = 9 },
		"reward NaN":   func(p *protocol.Batch) { p.Reward[3] = float32(math.NaN()) },
		"previous":     func(p *protocol.Batch) { p.Context[c.Model.MemoryUnits] = 4 },
		"context row":  func(p *protocol.Batch) { p.Context[0] = float32(math.Inf(1)) },
	} {
		p := newBatchOf(c, 1)
		if spoil(p); want == "batch of 3×6" {
			want = "batch of 3×5"
		}
		if _, err := a.Train(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if !bytes.Equal(saved(t, a), before) {
		t.Error("what came to nothing changed the agent")
	}
}

// Acting step by step from the rollouts' contexts has the probabilities that
// training has.
func TestActingIsTraining(t *testing.T) {
	forEach(t, func(t *testing.T, c Config) {
		a, r := stepped(t, c, 1)
		m, p := c.Model, r.p
		blob, err := a.Params(nil)
		if err != nil {
			t.Fatal(err)
		}
		d, err := model.NewDirect(m, c.BatchSize, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Load(blob); err != nil {
			t.Fatal(err)
		}
		for b := range c.BatchSize {
			p.Flags[b*p.Length] = protocol.FlagFirst | protocol.FlagEpisodeStart
		}
		if err := a.data.load(c, p); err != nil {
			t.Fatal(err)
		}
		if err := a.gradients(t.Context()); err != nil {
			t.Fatal(err)
		}
		obs, flags, mask := make([]float32, p.Size*m.Obs), make([]uint8, p.Size), make([]bool, p.Size*m.Actions)
		action, logProb := make([]int32, p.Size), make([]float32, p.Size)
		for step := range p.Length - 1 {
			for b := range p.Size {
				at := b*p.Length + step
				copy(obs[b*m.Obs:(b+1)*m.Obs], p.Obs[at*m.Obs:])
				copy(mask[b*m.Actions:(b+1)*m.Actions], p.Mask[at*m.Actions:])
				flags[b] = p.Flags[at]
			}
			d.Act(obs, flags, mask, action, logProb)
			for i, v := range d.Probs() {
				if b := i / m.Actions; !r.counts(b, step) {
					continue
				}
				near(t, "probability", float64(a.actor.probs[step*p.Size*m.Actions+i]), float64(v), 1e-5)
			}
			// The batch's own actions lead on.
			state, err := d.Save(nil)
			if err != nil {
				t.Fatal(err)
			}
			f, err := model.Decode(state)
			if err != nil {
				t.Fatal(err)
			}
			if n := m.ContextLen(); n > 0 {
				for b := range p.Size {
					f.Tensors[0].Data[(b+1)*n-1] = float32(p.Action[b*p.Length+step] + 1)
				}
			}
			var again bytes.Buffer
			if _, err := f.WriteTo(&again); err != nil {
				t.Fatal(err)
			}
			if err := d.Restore(again.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A bandit: the second of three actions pays, and is soon taken.
func TestLearnsABandit(t *testing.T) {
	forEach(t, func(t *testing.T, c Config) {
		c.ActorRate, c.CriticRate, c.Entropy, c.Warmup = 3e-3, 3e-3, 1e-3, 0
		a, err := New(c, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		for s := range uint64(600) {
			p := newBatchOf(c, s)
			for i := range p.Mask {
				p.Mask[i] = true
			}
			for i := 1; i < len(p.Reward); i++ {
				p.Reward[i] = 0
				if p.Action[i-1] == 1 {
					p.Reward[i] = 1
				}
			}
			if _, err := a.Train(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		var taken float64
		n := len(a.actor.probs) / c.Model.Actions
		for i := range n {
			taken += float64(a.actor.probs[i*c.Model.Actions+1]) / float64(n)
		}
		if taken < 0.8 {
			t.Errorf("the best action has probability %.2f after 600 updates", taken)
		}
	})
}

func TestConfigValidate(t *testing.T) {
	for want, spoil := range map[string]func(c *Config){
		"batch_size is 0":    func(c *Config) { c.BatchSize = 0 },
		"batch_length is 1":  func(c *Config) { c.BatchLength = 1 },
		"horizon is 0.5":     func(c *Config) { c.Horizon = 0.5 },
		"lambda is 2":        func(c *Config) { c.Lambda = 2 },
		"entropy is -1":      func(c *Config) { c.Entropy = -1 },
		"learning rates":     func(c *Config) { c.CriticRate = 0 },
		"half-lives":         func(c *Config) { c.EntropyHalfLife = -1 },
		"agc is -1":          func(c *Config) { c.Clip = -1 },
		"return_rate is 1.5": func(c *Config) { c.ReturnRate = 1.5 },
		"threads is 0":       func(c *Config) { c.Threads = 0 },
		"actions is 1":       func(c *Config) { c.Model.Actions = 1 },
		"unimix is 1":        func(c *Config) { c.Model.Unimix = 1 },
	} {
		c := variants()["recurrent"]
		spoil(&c)
		if _, err := New(c, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
