package experiment_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/dreamfleet/dreamfleet/experiment"
)

func sample(r *rand.Rand, runs, seeds int, value func(s, i int) float64) experiment.Sample {
	out := make(experiment.Sample, runs)
	for s := range out {
		out[s] = make([]float64, seeds)
		for i := range out[s] {
			out[s][i] = value(s, i) + 0.001*r.NormFloat64()
		}
	}
	return out
}

func width(i experiment.Interval) float64 { return i.High - i.Low }

// The point estimates are those of the pooled values, on which the plain functions are tested.
func TestEstimateIsOfThePooledValues(t *testing.T) {
	x := experiment.Sample{{9, 1, 2}, {3, 50, 4}}
	e := experiment.Estimate(x)
	pooled := []float64{9, 1, 2, 3, 50, 4}
	if !near(e.IQM.Value, experiment.IQM(pooled)) || !near(e.Mean.Value, 11.5) || !near(e.Median.Value, 3.5) {
		t.Errorf("%+v, want IQM %g, mean 11.5, median 3.5", e, experiment.IQM(pooled))
	}
	// Over tests: the mean of each test's. Pooled, the IQM of both would drop the second test's values.
	e = experiment.Estimate(experiment.Sample{{1, 1, 1, 1}}, experiment.Sample{{9}})
	if e.IQM.Value != 5 || e.Mean.Value != 5 || e.Median.Value != 5 || e.IQM.Low != 5 || e.IQM.High != 5 {
		t.Errorf("of tests with 1 and 9: %+v, want 5", e)
	}
	if e := experiment.Estimate(); !math.IsNaN(e.IQM.Value) || !math.IsNaN(e.IQM.Low) {
		t.Errorf("of no test: %+v", e)
	}
}

// Differences between runs alone widen the interval as three independent values do, however many evaluation seeds there
// are; with one run, only the evaluation seeds count.
func TestEstimateResamplesRunsAsWholes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	byRun := func(s, _ int) float64 { return float64(s) }
	three := experiment.Estimate(sample(r, 3, 500, byRun))
	// Of runs 0, 1, 2 a resample's mean is 0 with chance 1/27 > 0.025: the limits are 0 and 2, 7 standard
	// errors of 1500 independent values apart would be 0.3.
	if three.Mean.Low > 0.01 || three.Mean.High < 1.99 {
		t.Errorf("the mean of runs at 0, 1 and 2 is in [%g, %g], want [0, 2]", three.Mean.Low, three.Mean.High)
	}
	// A run brings its values on all tests: a second test on which the same runs are at the same values adds no
	// information about runs, so the interval does not shrink.
	both := experiment.Estimate(sample(r, 3, 500, byRun), sample(r, 3, 500, byRun))
	if width(both.Mean) < 0.99*width(three.Mean) {
		t.Errorf("a second test narrows the interval from %g to %g", width(three.Mean), width(both.Mean))
	}
	if one := experiment.Estimate(sample(r, 1, 500, byRun)); width(one.Mean) > 0.001 {
		t.Errorf("one run has an interval of %g", width(one.Mean))
	}
}

// An evaluation seed is one observation, in however many runs it was played; and tests are strata.
func TestEstimateResamplesSeedsWithinTests(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bySeed := func(_, i int) float64 { return float64(i % 2) }
	one, five := experiment.Estimate(sample(r, 1, 100, bySeed)), experiment.Estimate(sample(r, 5, 100, bySeed))
	// Half of 100 at 0, half at 1: a standard error of 0.05.
	for _, e := range []experiment.Estimates{one, five} {
		if w := width(e.Mean); math.Abs(w-2*1.96*0.05) > 0.02 {
			t.Errorf("interval of width %g, want 0.196", w)
		}
	}
	// Two tests, one at 0 and one at 10: no resample has more of one than of the other.
	if e := experiment.Estimate(sample(r, 1, 100, func(int, int) float64 { return 0 }), sample(r, 1, 100, func(int, int) float64 { return 10 })); width(e.Mean) > 0.01 {
		t.Errorf("strata are mixed: %+v", e.Mean)
	}
}

// Of many experiments with known mean about 95 of 100 intervals hold it.
func TestEstimateCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const experiments, runs = 200, 12
	held := 0
	for range experiments {
		effects := make([]float64, runs)
		for s := range effects {
			effects[s] = r.NormFloat64()
		}
		e := experiment.Estimate(sample(r, runs, 4, func(s, _ int) float64 { return effects[s] }))
		if e.Mean.Low <= 0 && 0 <= e.Mean.High {
			held++
		}
	}
	// The bootstrap of 12 runs sees 11/12 of the variance and knows no t distribution: 90 to 93 % are expected.
	if held < 170 || held > 196 {
		t.Errorf("%d of %d intervals hold the mean", held, experiments)
	}
}

func TestImprovement(t *testing.T) {
	// By hand: run 0 of x wins on both seeds; run 1 ties on the first and loses on the second: (2 + 0.5) / 4.
	x := []experiment.Sample{{{1, 1}, {2, 5}}}
	y := []experiment.Sample{{{2, 3}}}
	if p := experiment.Improvement(x, y); !near(p.Value, 0.625) || p.Low < 0 || p.High > 1 || p.Low > p.Value || p.High < p.Value {
		t.Errorf("%+v, want 0.625", p)
	}
	forth, back := experiment.Improvement(x, y), experiment.Improvement(y, x)
	if !near(forth.Value+back.Value, 1) {
		t.Errorf("there %g and back %g do not add up to 1", forth.Value, back.Value)
	}
	// Pairs share their jobs: x is always just below y although both vary a hundred times as much from seed to seed.
	r := rand.New(rand.NewPCG(5, 6))
	hard := func(_, i int) float64 { return float64(i) }
	below := sample(r, 3, 50, hard)
	above := sample(r, 3, 50, func(s, i int) float64 { return hard(s, i) + 0.1 })
	if p := experiment.Improvement([]experiment.Sample{below}, []experiment.Sample{above}); p.Value != 1 || p.Low != 1 {
		t.Errorf("x is below y on every seed, with probability %+v", p)
	}
	// Two tests weigh the same, whatever their number of seeds.
	p := experiment.Improvement([]experiment.Sample{{{0, 0, 0, 0}}, {{9}}}, []experiment.Sample{{{1, 1, 1, 1}}, {{1}}})
	if p.Value != 0.5 {
		t.Errorf("won on one test of two: %+v, want 0.5", p)
	}
	if p := experiment.Improvement(nil, nil); !math.IsNaN(p.Value) {
		t.Errorf("of no test: %+v", p)
	}
}

func TestProfile(t *testing.T) {
	p := experiment.Profile([]float64{0.5, 1, 2, 4}, experiment.Sample{{1, 2}, {3, 0.9}}, experiment.Sample{{9}, {9}})
	for k, want := range []float64{0, 0.25, 0.375, 0.5} {
		if !near(p[k].Value, want) || p[k].Low > want || p[k].High < want {
			t.Errorf("threshold %d: %+v, want %g", k, p[k], want)
		}
	}
}

func TestContinual(t *testing.T) {
	if p := experiment.Performance(2, 11, 1); p != 0.9 {
		t.Errorf("a tenth of the way from the reference to random play has %g, want 0.9", p)
	}
	if p := experiment.LogPerformance(2, 16, 1); !near(p, 0.75) {
		t.Errorf("twice the reference, of 16 times: %g, want 3/4", p)
	}
	for _, reference := range []float64{11, 12, math.NaN()} {
		if p := experiment.Performance(2, 11, reference); !math.IsNaN(p) {
			t.Errorf("a reference of %g against random play of 11 gives %g, want NaN", reference, p)
		}
	}
	// Three tasks: the first is learnt to 1 and falls to 0.4, the second rises from 0.8 to 0.9, the third is last.
	p := [][]float64{{0, 1, 0.5, 0.4}, {0.1, 0.3, 0.8, 0.9}, {0, 0, 0, 0.7}}
	for i, want := range []float64{0.6, -0.1, 0} {
		if f := experiment.Forgetting(p)[i]; !near(f, want) {
			t.Errorf("task %d: forgetting %g, want %g", i, f, want)
		}
	}
	// From 0 to 1 in the first half, then 1: 3/4. Starting at 1/2 instead: 7/8, so half of what is above is gained.
	alone, after := experiment.AreaUnder([]float64{0, 50, 100}, []float64{0, 1, 1}), experiment.AreaUnder([]float64{200, 250, 300}, []float64{0.5, 1, 1})
	if !near(alone, 0.75) || !near(after, 0.875) || !near(experiment.ForwardTransfer(after, alone), 0.5) {
		t.Errorf("areas %g and %g, transfer %g; want 0.75, 0.875, 0.5", alone, after, experiment.ForwardTransfer(after, alone))
	}
	if !math.IsNaN(experiment.AreaUnder([]float64{1}, []float64{1})) || !math.IsNaN(experiment.ForwardTransfer(1, 1)) {
		t.Error("a single point has an area, or a curve at 1 leaves something to gain")
	}
}
