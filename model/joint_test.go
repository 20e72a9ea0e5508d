package model

import "testing"

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
