//go:build !race

package model

import "testing"

// Runners, optimiser and policy allocate nothing in a steady step. The race
// detector makes pools forget, so that it would be blamed on them.
func TestNoAllocations(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			const steps, rows, h = 4, 9, 3
			params, r := randomParams(t, c), newRand()
			pool := NewPool(1)
			defer pool.Close()
			check := func(what string, f func()) {
				t.Helper()
				if n := testing.AllocsPerRun(5, f); n != 0 {
					t.Errorf("%s allocates %v times", what, n)
				}
			}
			of := func(module string) []float32 { return params.Module(module).Data }
			n := steps * rows
			x, embed, dembed := normals(r, n*c.Obs), make([]float32, n*c.Units), make([]float32, n*c.Units)
			grad := make([]float32, len(params.Data))
			encoder := NewMLP(c, Encoder, n, pool)
			check("the encoder", func() {
				encoder.Forward(of(Encoder), Input{Vector: x}, embed)
				encoder.Backward(embed, grad, nil, nil)
			})
			seq := &Sequences{Start: NewStates(c, rows), First: make([]bool, n), PrevAction: make([]int32, n), Draw: make([]float32, n*c.DrawLen())}
			seq.First[rows+2] = true
			c.Draws(seq.Draw, r)
			states, logits := NewStates(c, n), make([]float32, n*c.LogitsLen())
			observer := NewObserver(c, steps, rows, pool)
			ddeter, dz, dlogits := make([]float32, n*c.Deter), make([]float32, n*c.StochLen()), make([]float32, n*c.LogitsLen())
			check("the observer", func() {
				observer.Forward(of(RSSM), embed, seq, states, logits)
				observer.Backward(ddeter, dz, dlogits, grad, dembed)
			})
			critic := NewMLP(c, Critic, n, pool)
			values := make([]float32, n*c.Bins)
			check("a head", func() {
				critic.Forward(of(Critic), Input{States: states}, values)
				critic.Backward(values, grad, ddeter, dz)
			})
			prior := NewMLP(c, Prior, n, pool)
			check("the prior", func() {
				prior.Forward(of(Prior), Input{States: states}, dlogits)
				prior.Backward(dlogits, grad, ddeter, nil)
			})
			kl, rowKL, weight := NewKL(c, n), make([]float64, n), make([]float32, n)
			check("the KL", func() {
				kl.Rows(rowKL, logits, dlogits)
				kl.Back(logits, dlogits, logits, dlogits, weight, weight)
			})
			rollout := &Rollout{PolicyStart: make([]float32, rows*c.PolicyState()), Draw: make([]float32, h*n*c.DrawLen()), ActionDraw: make([]float32, h*n)}
			imaginer := NewImaginer(c, steps, rows, steps, h, 1, pool)
			acts := make([]float32, h*n*c.Actions)
			check("the imaginer", func() {
				imaginer.Forward(of(Actor), of(RSSM), of(Prior), states, seq, rollout, acts)
				imaginer.Backward(acts, grad)
			})
			optimizer := NewOptimizer(params, 0.3, pool)
			rate := func(string) float64 { return 0 }
			grads := byModule(params, grad)
			check("the optimiser", func() { optimizer.Update(grads, rate) })
			policy := newPolicy(t, c, rows)
			policy.Use(params)
			action, logProb, flags := make([]int32, rows), make([]float32, rows), make([]uint8, rows)
			context := make([]float32, rows*c.ContextLen())
			check("acting", func() {
				policy.Act(x[:rows*c.Obs], flags, nil, action, logProb)
				policy.Context(context)
			})
		})
	}
}
