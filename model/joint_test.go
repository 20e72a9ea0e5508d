package model

import (
	"math"
	"testing"
)

// Latents that always have the same class are drawn with the same class by an autoregressive prior that has
// learned them, and by chance alone by one that draws them independently.
func TestPriorOfDependentLatents(t *testing.T) {
	for _, test := range []struct {
		autoregressive bool
		least, most    float64
	}{{true, 0.95, 1}, {false, 0, 0.15}} {
		c := testConfig()
		c.Autoregressive = test.autoregressive
		const rows = 256
		params, pool := randomParams(t, c), NewPool(1)
		defer pool.Close()
		states, post := NewStates(c, rows), make([]float32, rows*c.LogitsLen())
		for i := range states.Stoch.Index {
			class := i / c.Stoch % c.Classes
			states.Stoch.Index[i] = int32(class)
			post[i*c.Classes+class] = 20
		}
		prior, kl, opt := NewMLP(c, Prior, rows, pool), NewKL(c, rows), NewOptimizer(params, 0, pool)
		logits, dpost, dprior := make([]float32, len(post)), make([]float32, len(post)), make([]float32, len(post))
		divergence, none, one := make([]float64, rows), make([]float32, rows), make([]float32, rows)
		for i := range one {
			one[i] = 1
		}
		grad := make([]float32, len(params.Data))
		grads, module := byModule(params, grad), params.Module(Prior)
		of := grads[2]
		if params.Modules[2].Name != Prior {
			t.Fatalf("the third module is %s", params.Modules[2].Name)
		}
		for range 2000 {
			prior.Forward(module.Data, Input{States: states}, logits)
			kl.Rows(divergence, post, logits)
			clear(dprior)
			kl.Back(dpost, dprior, post, logits, none, one)
			prior.Backward(dprior, of, nil, nil)
			opt.Update(grads, func(string) float64 { return 0.01 })
		}

		drawn := NewStates(c, rows)
		prior.Forward(module.Data, Input{States: drawn}, logits) // what the output layer wrote
		soft, draw := make([]float32, rows*c.StochLen()), make([]float32, rows*c.DrawLen())
		c.Draws(draw, newRand())
		c.samplePrior(prior.net, drawn.Stoch, soft, logits, draw)
		var alike float64
		for i := range rows {
			if z := drawn.Stoch.Index[i*c.Stoch:]; z[0] == z[1] && z[1] == z[2] {
				alike += 1. / rows
			}
		}
		if alike < test.least || alike > test.most {
			t.Errorf("autoregressive %v: %v of the draws have three latents of one class, want %v to %v", test.autoregressive, alike, test.least, test.most)
		}
	}
}

// Classes are drawn as often as they should be, rare ones too, and by numbers in common mostly alike from
// probabilities that are alike.
func TestRace(t *testing.T) {
	p := []float32{0.5, 0, 0.3, 0.149, 0.05, 0.001}
	other := []float32{0.4, 0, 0.3, 0.249, 0.05, 0.001} // a tenth is elsewhere
	const n, mix = 1 << 20, 0.01
	counts, alike := make([]float64, len(p)), 0.
	r := newRand()
	for range n {
		u := r.Float32()
		k := race(p, u, 1-mix, mix/6)
		counts[k]++
		if k == race(other, u, 1-mix, mix/6) {
			alike++
		}
	}
	for k, c := range counts {
		want := n * ((1-mix)*float64(p[k]) + mix/6)
		if sigma := math.Sqrt(want); math.Abs(c-want) > 4*sigma {
			t.Errorf("class %d is drawn %v times of %d, want %.0f", k, c, n, want)
		}
	}
	// (1 - d)/(1 + d) at least, with d = 0.1: the bound of the race.
	if share := alike / n; share < 0.81 {
		t.Errorf("%v of the draws are alike", share)
	}
	if k := race([]float32{0, 0, 1}, 0, 1, 0); k != 2 {
		t.Errorf("class %d of probability 0 is drawn", k)
	}
}

func BenchmarkRace(b *testing.B) {
	p := make([]float32, 16)
	for i := range p {
		p[i] = 1. / 16
	}
	u := float32(0)
	for b.Loop() {
		race(p, u, 1, 0)
		u += 1e-6
	}
}
