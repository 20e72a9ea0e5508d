package dispatch

import (
	"math/rand/v2"
	"testing"
)

// Where the policy is as good as the reference, or worse by no more than the margin, false alarms in a window are
// rarer than the error rate: here 5 %, of 2000 windows, with differences that are heavy-tailed, that depend on those
// before, and that are as bad as the hypothesis allows.
func TestFalseAlarmsAreAsRareAsStated(t *testing.T) {
	const windows, alpha = 2000, 0.05
	for name, draw := range map[string]func(r *rand.Rand, last float64) float64{
		"even":     func(r *rand.Rand, _ float64) float64 { return 0.4*r.Float64() - 0.2 + 0.02 },
		"extremes": func(r *rand.Rand, _ float64) float64 { return []float64{-0.96, 1, 0.02}[r.IntN(3)] },
		"heavy": func(r *rand.Rand, _ float64) float64 {
			if r.IntN(20) == 0 {
				return 0.97 // rarely very bad, otherwise a little better
			}
			return 0.02 - 0.05
		},
		"dependent": func(r *rand.Rand, last float64) float64 {
			size := 0.05
			if last > 0.02 {
				size = 0.8
			}
			return 0.02 + size*float64(2*r.IntN(2)-1)
		},
	} {
		g := CostGuard{ErrorRate: alpha, Margin: 0.02, Window: 100, Block: 100}
		test := newCostTest(g)
		r := rand.New(rand.NewPCG(1, 2))
		alarms, last := 0, 0.0
		for range windows * g.Window {
			last = draw(r, last)
			if test.add(last) {
				alarms++
				test.reset()
			}
		}
		t.Logf("%s: %d alarms in %d windows", name, alarms, windows)
		// Three standard deviations of a binomial above the stated rate, were it just met.
		if limit := windows*alpha + 3*10; float64(alarms) > limit {
			t.Errorf("%s: %d false alarms in %d windows, at an error rate of %v", name, alarms, windows, alpha)
		}
	}
}

// A policy that is worse is found, the sooner the worse it is, and also when it was better for long.
func TestWorsePoliciesAreFound(t *testing.T) {
	for _, c := range []struct {
		mean, spread float64
		before       int // blocks in which it was better
		within       int
	}{
		{mean: 0.3, spread: 0.2, within: 60}, {mean: 0.15, spread: 0.2, within: 150}, {mean: 0.3, spread: 0.2, before: 1000, within: 200},
	} {
		found := 0
		for seed := range uint64(100) {
			r := rand.New(rand.NewPCG(seed, 3))
			test := newCostTest(DefaultPlan().Guards.Cost)
			for range c.before {
				if test.add(-0.1 + 0.4*(r.Float64()-0.5)) {
					t.Fatal("an alarm while it was better")
				}
			}
			for range c.within {
				if test.add(c.mean + 2*c.spread*(r.Float64()-0.5)) {
					found++
					break
				}
			}
		}
		if found < 95 {
			t.Errorf("%+v: found %d times of 100", c, found)
		}
	}
}
