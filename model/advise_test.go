package model

import (
	"math"
	"math/rand/v2"
	"testing"
)

func advisorConfig(gaussian bool) Config {
	return Config{
		Obs: 5, Actions: 3, Deter: 16, Hidden: 8, Stoch: 3, Classes: 4, Units: 8, Layers: 2, Blocks: 2, Bins: 11,
		Recurrent: true, PolicyUnits: 4, Unimix: 0.01, Gaussian: gaussian,
	}
}

// With latents that hardly depend on chance, an advisor gives the probabilities of a Policy step by step,
// also when its rows change their places and their number, since all state is in the context.
func TestAdvisorAgreesWithThePolicy(t *testing.T) {
	c := advisorConfig(true)
	params, err := NewParams(c)
	if err != nil {
		t.Fatal(err)
	}
	params.Init(rand.New(rand.NewPCG(1, 2)))
	// A raw scale far below zero leaves Gaussian latents their smallest deviation, 0.1.
	for _, x := range params.Module(RSSM).Tensors {
		if x.Name == RSSM+"/posterior_out/bias" {
			for i := c.StochLen(); i < c.LogitsLen(); i++ {
				x.Data[i] = -1e4
			}
		}
	}
	const rows = 4
	policy, err := NewPolicy(c, rows, 3)
	if err != nil {
		t.Fatal(err)
	}
	policy.Use(params)
	a, err := NewAdvisor(c, 8, &File{Tensors: params.Tensors()}, 3)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	w := c.ContextLen()
	contexts := make([][]float32, rows)
	for i := range contexts {
		contexts[i] = make([]float32, w)
	}
	obs, flags := make([]float32, rows*c.Obs), make([]uint8, rows)
	action, logProb := make([]int32, rows), make([]float32, rows)
	for step := range 20 {
		for i := range obs {
			obs[i] = float32(r.NormFloat64())
		}
		for i := range flags {
			flags[i] = 0
			if step == 0 || i == 1 && step == 7 {
				flags[i] = First
			}
		}
		policy.Act(obs, flags, nil, action, logProb)
		order := r.Perm(rows)
		for len(order) > 0 {
			n := 1 + r.IntN(len(order))
			some := order[:n]
			order = order[n:]
			o, f, ctx := []float32{}, []uint8{}, []float32{}
			for _, i := range some {
				o, f, ctx = append(o, obs[i*c.Obs:(i+1)*c.Obs]...), append(f, flags[i]), append(ctx, contexts[i]...)
			}
			probs, excess := make([]float32, n*c.Actions), make([]float32, n*c.Obs)
			if err := a.Step(n, o, f, nil, ctx, probs, excess); err != nil {
				t.Fatal(err)
			}
			for k, i := range some {
				copy(contexts[i], ctx[k*w:(k+1)*w])
				c.SetAction(contexts[i], int(action[i]))
				if first, none := f[k] != 0, math.IsNaN(float64(excess[k*c.Obs])); first != none {
					t.Fatalf("step %d, row %d: the excess is %v", step, i, excess[k*c.Obs])
				}
				for j, p := range probs[k*c.Actions : (k+1)*c.Actions] {
					if q := policy.Probs()[i*c.Actions+j]; math.Abs(float64(p-q)) > 0.05 {
						t.Errorf("step %d, row %d, action %d: %v, the policy has %v", step, i, j, p, q)
					}
				}
			}
		}
	}
}

// What was not expected is told with its sign: a world model that decodes everything as zero has expected nothing of
// the observation's symlog.
func TestExcessIsWhatWasNotExpected(t *testing.T) {
	for _, gaussian := range []bool{false, true} {
		c := advisorConfig(gaussian)
		params, err := NewParams(c)
		if err != nil {
			t.Fatal(err)
		}
		params.Init(rand.New(rand.NewPCG(1, 2)))
		for _, x := range params.Module(Decoder).Tensors {
			clear(x.Data)
		}
		a, err := NewAdvisor(c, 2, &File{Tensors: params.Tensors()}, 3)
		if err != nil {
			t.Fatal(err)
		}
		obs := []float32{0, 1, -3, 8, 2}
		excess := make([]float32, len(obs))
		if err := a.Step(1, obs, []uint8{0}, nil, make([]float32, c.ContextLen()), make([]float32, c.Actions), excess); err != nil {
			t.Fatal(err)
		}
		for i, v := range obs {
			if want := Symlog(float64(v)); math.Abs(float64(excess[i])-want) > 1e-5 {
				t.Errorf("gaussian %v: the excess of %v is %v, want %v", gaussian, v, excess[i], want)
			}
		}
	}
}

// A blob for actors acts and does not predict; what is damaged is refused.
func TestAdvisorParameters(t *testing.T) {
	c := advisorConfig(false)
	params, err := NewParams(c)
	if err != nil {
		t.Fatal(err)
	}
	params.Init(rand.New(rand.NewPCG(1, 2)))
	blob, err := params.Blob(nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Decode(blob)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAdvisor(c, 1, f, 1)
	if err != nil || a.Predicts() {
		t.Fatalf("%v, predicts", err)
	}
	f.Tensors[3].Data[0] = float32(math.NaN())
	if _, err := NewAdvisor(c, 1, f, 1); err == nil {
		t.Error("parameters that are no numbers are taken")
	}
	if _, err := NewAdvisor(c, 1, &File{Tensors: f.Tensors[:2]}, 1); err == nil {
		t.Error("parameters that are not all there are taken")
	}
	damaged := make([]float32, c.ContextLen())
	damaged[0] = float32(math.Inf(1))
	if err := a.Step(1, make([]float32, c.Obs), []uint8{0}, nil, damaged, make([]float32, c.Actions), nil); err == nil {
		t.Error("a damaged context is taken")
	}
}
