package dreamer

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/model"
)

// dump is a dumped step as someone with another framework reads it: tensors by
// name and the settings, nothing of this package.
type dump struct {
	t       *testing.T
	tensors map[string]model.Tensor
}

func (d dump) values(name string) []float32 {
	d.t.Helper()
	x, ok := d.tensors[name]
	if !ok {
		d.t.Fatalf("the dump has no tensor %s", name)
	}
	size := 1
	for _, n := range x.Shape {
		size *= n
	}
	if size != len(x.Data) {
		d.t.Fatalf("%s has shape %v and %d values", name, x.Shape, len(x.Data))
	}
	return x.Data
}

func (d dump) flags(name string) []bool {
	var b []bool
	for _, v := range d.values(name) {
		b = append(b, v != 0)
	}
	return b
}

func (d dump) indices(name string) []int32 {
	var k []int32
	for _, v := range d.values(name) {
		k = append(k, int32(v))
	}
	return k
}

func (d dump) latents(c model.Config, name string) model.Latents {
	if c.Gaussian {
		return model.Latents{Value: d.values(name)}
	}
	return model.Latents{Index: d.indices(name)}
}

// group is the tensors under a prefix, without it.
func (d dump) group(prefix string) weights {
	w := weights{}
	for name, x := range d.tensors {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			w[rest] = widen(x.Data)
		}
	}
	return w
}

// A dumped step is recomputed from its file alone: samples from draws, every
// loss, every gradient, the optimiser and all state afterwards.
func TestDumpSuffices(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, c)
			for i := range 3 { // so that moments and normaliser are not empty
				if _, err := a.Train(t.Context(), newBatchOf(c, uint64(10+i))); err != nil {
					t.Fatal(err)
				}
			}
			var file bytes.Buffer
			if err := a.Dump(&file, newBatchOf(c, 1)); err != nil {
				t.Fatal(err)
			}
			recompute(t, file.Bytes())
		})
	}
}

// normalisers are the states of both: the returns' range and the advantages' size.
func (d dump) normalisers(when string) []float32 {
	return append(append([]float32(nil), d.values(when+"return_range")...), d.values(when+"advantage_size")...)
}

func recompute(t *testing.T, file []byte) {
	read, err := model.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	if err := json.Unmarshal([]byte(read.Metadata["config"]), &c); err != nil {
		t.Fatal(err)
	}
	m := c.Model
	d := dump{t, read.ByName()}
	number := func(name string) float64 { return float64(d.values(name)[0]) }

	step := &refStep{
		cfg: c, obs: d.values("batch/observation"), reward: d.values("batch/reward"), live: d.values("batch/continue"),
		last: d.flags("batch/last"), mask: d.flags("batch/mask"),
		sequence: model.Sequences{
			Start:      model.States{Deter: d.values("batch/start/deter"), Stoch: d.latents(m, "batch/start/stoch")},
			First:      d.flags("batch/first"),
			PrevAction: d.indices("batch/previous_action"), Draw: d.values("draws/posterior"),
		},
		policyStart: d.values("batch/start/policy"), priorDraw: d.values("draws/prior"),
		posterior: d.latents(m, "samples/posterior"), imagined: d.latents(m, "samples/imagined"),
		action: d.indices("samples/action"), slow: d.group("before/slow/"),
		norm: widen(d.normalisers("before/")), actor: number("before/step") >= float64(c.ActorStart),
	}
	before := d.group("before/params/")
	var f freezer
	var r refResult
	losses := step.losses(before, &f, &r)
	for i, name := range lossNames {
		near(t, name, d.values(name), vec{losses[i]}, 1e-4)
	}
	near(t, "total", d.values("loss/total"), vec{step.total(losses)}, 1e-4)
	for i, p := range r.posteriorProbs {
		checkPicks(t, "posterior", m, p, step.sequence.Draw[i*m.Stoch:(i+1)*m.Stoch], step.posterior.Index[i*m.Stoch:(i+1)*m.Stoch])
	}
	n := len(r.imagined) - len(r.returns)
	for i, p := range r.priorProbs {
		checkPriors(t, "prior", m, p, step.priorDraw[i*m.Stoch:(i+1)*m.Stoch], step.imagined.Index[(n+i)*m.Stoch:(n+i+1)*m.Stoch])
	}
	for i, p := range r.actionProbs {
		checkPick(t, "action", p, d.values("draws/action")[i], step.action[i])
	}
	deter := func(states []refState) (x vec) {
		for _, s := range states {
			x = append(x, s.deter...)
		}
		return x
	}
	near(t, "posterior states", d.values("states/posterior_deter"), deter(r.states), 1e-5)
	near(t, "imagined states", d.values("states/imagined_deter"), deter(r.imagined), 1e-5)
	near(t, "returns", d.values("returns/imagined"), r.returns, 1e-4)
	near(t, "advantages", d.values("returns/advantage"), r.advantage, 1e-4)
	near(t, "weights", d.values("returns/weight"), r.weight, 1e-4)
	near(t, "replayed returns", d.values("returns/replayed"), r.replayed, 1e-4)
	near(t, "normaliser", d.normalisers("after/"), r.norm, 1e-4)

	loss := func(w weights) float64 {
		f.again()
		return step.total(step.losses(w, &f, &r))
	}
	grads := d.group("grads/")
	if len(grads) != len(before) {
		t.Fatalf("%d gradients of %d tensors", len(grads), len(before))
	}
	var named []model.Tensor
	for name := range grads {
		named = append(named, model.Tensor{Name: name, Data: d.values("grads/" + name)})
	}
	checkGradients(t, loss, before, named)

	// The optimiser, tensor by tensor.
	count := number("before/step")
	if got := number("after/step"); got != count+1 {
		t.Errorf("step %v after step %v", got, count)
	}
	share := count / float64(c.Warmup)
	if start := float64(c.Warmup); count >= start {
		share = 1
		if c.HalfLife > 0 {
			share = max(0.1, math.Pow(2, -(count-start)/float64(c.HalfLife)))
		}
	}
	slow := d.group("before/slow/")
	for name, p := range before {
		rate := map[string]float64{"actor": c.ActorRate, "critic": c.CriticRate}[strings.Split(name, "/")[0]]
		if rate == 0 {
			rate = c.ModelRate
		}
		rate *= share
		mean, square := widen(d.values("before/momentum/"+name)), widen(d.values("before/mean_square/"+name))
		p = naiveLaProp(p, mean, square, grads[name], c.Clip, rate, count+1)
		near(t, "momentum of "+name, d.values("after/momentum/"+name), mean, 1e-5)
		near(t, "mean square of "+name, d.values("after/mean_square/"+name), square, 1e-5)
		near(t, name, d.values("after/params/"+name), p, 1e-6)
		if s := slow[name]; s != nil {
			for i := range s {
				s[i] += c.SlowRate * (p[i] - s[i])
			}
			near(t, "slow "+name, d.values("after/slow/"+name), s, 1e-6)
		}
	}
}

// naiveLaProp clips one tensor's gradient adaptively and makes the step-th
// update. It changes mean and square and returns the parameters.
func naiveLaProp(p, mean, square, grad vec, clip, rate, step float64) vec {
	factor := 1 / max(1, norm(grad)/(clip*max(1e-3, norm(p))))
	next := make(vec, len(p))
	for i, g := range grad {
		g *= factor
		square[i] = 0.999*square[i] + 0.001*g*g
		scaled := g / (math.Sqrt(square[i]/(1-math.Pow(0.999, step))) + 1e-20)
		mean[i] = 0.9*mean[i] + 0.1*scaled
		next[i] = p[i] - rate*mean[i]/(1-math.Pow(0.9, step))
	}
	return next
}
