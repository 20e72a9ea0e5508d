package a2c

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/dreamfleet/dreamfleet/learner/internal/batchtest"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// This file computes an update's cost again, one value at a time in float64,
// from the formulas of doc.go and of model.ActorCriticConfig.

type vec = []float64

// variants are the shapes that every check runs on.
func variants() map[string]Config {
	base := Config{
		Model:     model.ActorCriticConfig{Obs: 5, Actions: 3, Units: 7, Layers: 2, Recurrent: true, MemoryUnits: 6, Unimix: 0.02},
		BatchSize: 3, BatchLength: 6, Horizon: 20, Lambda: 0.9, Entropy: 0.5,
		ActorRate: 3e-4, CriticRate: 5e-4, Warmup: 10, Clip: 0.3, ReturnRate: 0.01, ScaleByAdvantage: true, Threads: 1,
	}
	plain := base
	plain.Model.Recurrent, plain.Model.Layers, plain.Model.Unimix = false, 1, 0
	plain.ScaleByAdvantage, plain.HalfLife, plain.EntropyHalfLife = false, 50, 30
	// So many rollouts that they are taken in several blocks, the last one smaller.
	blocks := base
	blocks.BatchSize, blocks.BatchLength = 11, 9
	return map[string]Config{"recurrent": base, "feed-forward": plain, "blocks": blocks}
}

// newAgent makes an agent whose parameters and scales are all away from their
// initial values: output layers that start at zero would hide what lies behind.
func newAgent(t testing.TB, c Config) *Agent {
	t.Helper()
	a, err := New(c, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	r := rand.New(rand.NewPCG(3, 4))
	for i := range a.params.Data {
		a.params.Data[i] += float32(0.3 * r.NormFloat64())
	}
	a.opt.Step = 100
	*a.returns.units = units{mean: -0.6, square: 3, seen: 0.4}
	*a.returns.size = struct{ Mean, Seen float32 }{0.5, 0.4}
	a.returns.norm.Low, a.returns.norm.High = -3, 1
	return a
}

// newBatchOf makes a batch with borders inside its rollouts: of every four the
// first starts a trial at its first step, the second has a trial's end in it, the
// third a trial that was cut, and the fourth an episode's end inside a trial.
func newBatchOf(c Config, seed uint64) *protocol.Batch {
	r := rand.New(rand.NewPCG(seed, 5))
	m := c.Model
	p := batchtest.New(r, c.BatchSize, c.BatchLength, m.Obs, m.Actions, m.ContextLen())
	for b := range p.Size {
		if row := p.Context[b*p.ContextLen : (b+1)*p.ContextLen]; len(row) > 0 {
			for i := range row {
				row[i] = float32(r.Float64()*2 - 1)
			}
			row[len(row)-1] = float32(r.IntN(m.Actions + 1))
		}
		end := (b + 1) * p.Length
		switch b % 4 {
		case 0:
			p.Flags[b*p.Length] = protocol.FlagFirst | protocol.FlagEpisodeStart
		case 1:
			p.Flags[end-3], p.Action[end-3] = protocol.FlagLast|protocol.FlagTerminal, 0
			p.Flags[end-2] = protocol.FlagFirst | protocol.FlagEpisodeStart
		case 2:
			p.Flags[end-4], p.Action[end-4] = protocol.FlagLast, 0
			p.Flags[end-3] = protocol.FlagFirst | protocol.FlagEpisodeStart
		case 3:
			p.Flags[end-3] = protocol.FlagEpisodeStart
		}
	}
	return p
}

// reference is a batch with what an update takes for constant.
type reference struct {
	c       Config
	p       *protocol.Batch
	eta     float64
	weights map[string]vec
}

func weightsOf(p *model.Params) map[string]vec {
	w := map[string]vec{}
	for _, t := range p.Tensors() {
		w[t.Name] = widen(t.Data)
	}
	return w
}

func widen(x []float32) vec {
	y := make(vec, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func (r *reference) linear(name string, x vec) vec {
	b, w := r.weights[name+"/bias"], r.weights[name+"/kernel"]
	y := make(vec, len(b))
	for j := range y {
		y[j] = b[j]
		for i, v := range x {
			y[j] += v * w[i*len(y)+j]
		}
	}
	return y
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func (r *reference) hidden(name string, x vec) vec {
	y := r.linear(name, x)
	var square float64
	for _, v := range y {
		square += v * v
	}
	rms := math.Sqrt(square/float64(len(y)) + 1e-4)
	for i := range y {
		v := y[i] / rms * r.weights[name+"/scale"][i]
		y[i] = v * sigmoid(v)
	}
	return y
}

func (r *reference) head(name string, x vec) vec {
	for l := range r.c.Model.Layers {
		x = r.hidden(name+"/layer"+string(rune('0'+l)), x)
	}
	return r.linear(name+"/out", x)
}

// logitsAndValues are those of rollout b, by step.
func (r *reference) logitsAndValues(b int) (logits []vec, values vec) {
	m, p := r.c.Model, r.p
	state, previous := make(vec, m.StateLen()), -1
	if m.Recurrent {
		row := widen(p.Context[b*p.ContextLen : (b+1)*p.ContextLen])
		copy(state, row)
		previous = int(row[len(row)-1]) - 1
	}
	for t := range p.Length {
		at := b*p.Length + t
		x := widen(p.Obs[at*m.Obs : (at+1)*m.Obs])
		for i, v := range x {
			x[i] = math.Copysign(math.Log1p(math.Abs(v)), v)
		}
		if m.Recurrent {
			if p.Flags[at]&protocol.FlagFirst != 0 {
				clear(state)
				previous = -1
			}
			action := make(vec, m.Actions)
			if previous >= 0 {
				action[previous] = 1
			}
			in := append(append(append(vec{}, r.hidden("memory/in", x)...), action...), state...)
			reset, cand, update := r.linear("memory/gru_reset", in), r.linear("memory/gru_candidate", in), r.linear("memory/gru_update", in)
			next := make(vec, len(state))
			for i := range next {
				u := sigmoid(update[i] - 1)
				next[i] = u*math.Tanh(sigmoid(reset[i])*cand[i]) + (1-u)*state[i]
			}
			state = next
			x = append(x, state...)
		}
		logits = append(logits, r.head("actor", x))
		values = append(values, r.head("critic", x)[0])
		previous = int(p.Action[at])
	}
	return logits, values
}

func (r *reference) flag(b, t int, flag uint8) bool { return r.p.Flags[b*r.p.Length+t]&flag != 0 }

// counts says whether a step has an action and a return.
func (r *reference) counts(b, t int) bool {
	return t < r.p.Length-1 && !r.flag(b, t, protocol.FlagLast)
}

// advantage is the generalised advantage estimate of Schulman et al., eq. 16, as
// the sum that defines it: of discounted differences, up to the end of the
// rollout or the trial.
func (r *reference) advantage(b, t int, values vec) float64 {
	gamma := 1 - 1/r.c.Horizon
	var sum float64
	weight := 1.0
	for k := t; k < r.p.Length-1; k++ {
		next := gamma * values[k+1]
		if r.flag(b, k+1, protocol.FlagTerminal) {
			next = 0
		}
		sum += weight * (float64(r.p.Reward[b*r.p.Length+k+1]) + next - values[k])
		if r.flag(b, k+1, protocol.FlagLast) {
			break
		}
		weight *= gamma * r.c.Lambda
	}
	return sum
}

// probs is the policy at a step: softmax over what is allowed, mixed with the
// uniform distribution over it.
func (r *reference) probs(b, t int, logits vec) vec {
	a := r.c.Model.Actions
	mask := r.p.Mask[(b*r.p.Length+t)*a:][:a]
	var sum, n float64
	p := make(vec, a)
	for i, ok := range mask {
		if ok {
			p[i] = math.Exp(logits[i])
			sum += p[i]
			n++
		}
	}
	mix := float64(r.c.Model.Unimix)
	for i, ok := range mask {
		if ok {
			p[i] = (1-mix)*p[i]/sum + mix/n
		}
	}
	return p
}

// cost is that of the parameters, given scaled advantages and the critic's
// targets by step and rollout (row t·B + b).
func (r *reference) cost(advantages, targets vec) (actor, critic float64) {
	n := 0.0
	for b := range r.p.Size {
		logits, values := r.logitsAndValues(b)
		for t := range r.p.Length {
			if !r.counts(b, t) {
				continue
			}
			n++
			row := t*r.p.Size + b
			p := r.probs(b, t, logits[t])
			var entropy float64
			for _, v := range p {
				if v > 0 {
					entropy -= v * math.Log(v)
				}
			}
			actor -= advantages[row]*math.Log(p[r.p.Action[b*r.p.Length+t]]) + r.eta*entropy
			critic += (values[t] - targets[row]) * (values[t] - targets[row]) / 2
		}
	}
	return actor / n, critic / n
}
