package loadbalance

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/dreamfleet/dreamfleet/env"
)

// Task is one load balancing problem; it implements env.Task.
type Task struct {
	Label string // its name in reports

	// Poisson arrivals and Pareto sizes, in ParkSource's terms.
	Interval, Shape, Scale float64
	// Workload, if not nil, makes the jobs instead.
	Workload Workload

	Rates   []float64 // service rate of each server, 0 for one that is absent
	Changes []Change  // changes of the servers, in order of time

	// The factors that gaps and sizes reach by the end of the episode, growing by
	// the same ratio from job to job; 0 and 1 mean no drift.
	IntervalDrift, SizeDrift float64
}

// Name is the label.
func (t *Task) Name() string { return t.Label }

// Jobs returns the first n jobs of an episode: Park's own of the seed, unless the task has a workload.
func (t *Task) Jobs(seed uint64, n int) (JobList, error) {
	var src Source
	switch {
	case t.Workload != nil:
		var err error
		if src, err = t.Workload.Episode(seed, n); err != nil {
			return nil, err
		}
	case seed > math.MaxUint32:
		return nil, fmt.Errorf("loadbalance: seed %d, want at most %d, as Park's random streams have it", seed, uint32(math.MaxUint32))
	default:
		src = NewParkSource(uint32(seed), t.Interval, t.Shape, t.Scale)
	}
	if !none(t.IntervalDrift) || !none(t.SizeDrift) {
		drifting := new(drift)
		drifting.reset(src, t.IntervalDrift, t.SizeDrift, n)
		src = drifting
	}
	return Record(src, n)
}

// ParkTask is Park's own problem: ten servers and its default jobs.
func ParkTask() *Task {
	return &Task{
		Label:    "park",
		Interval: DefaultInterval,
		Shape:    DefaultShape,
		Scale:    DefaultScale,
		Rates:    DefaultRates(),
	}
}

// EvenRates spaces n service rates evenly over Park's range, 0.15 to 1.05. Ten
// are Park's own.
func EvenRates(n int) []float64 {
	rates := make([]float64, n)
	for i := range rates {
		r := 0.15 + 0.9*float64(i)/float64(max(n-1, 1))
		rates[i] = math.Round(r*1e12) / 1e12 // the nearest to the decimal number
	}
	return rates
}

// Range is a closed interval to draw from.
type Range struct{ Lo, Hi float64 }

// uniform draws evenly. A range of one value leaves r alone.
func (g Range) uniform(r *rand.Rand) float64 {
	if g.Lo == g.Hi {
		return g.Lo
	}
	return g.Lo + (g.Hi-g.Lo)*r.Float64()
}

// logUniform draws the logarithm evenly: half as much is as likely as twice.
func (g Range) logUniform(r *rand.Rand) float64 {
	if g.Lo == g.Hi {
		return g.Lo
	}
	return min(max(math.Exp(Range{math.Log(g.Lo), math.Log(g.Hi)}.uniform(r)), g.Lo), g.Hi)
}

// Tasks is a distribution of tasks; it implements env.Distribution. What is not
// set stays as in Base. Intervals, scales and factors are drawn log-uniformly,
// since what matters of them is their ratio; the shape and all counts uniformly.
//
// Base's servers keep their places: action i means server i (unless permuted),
// and a server that a task lacks has rate 0 and is masked.
type Tasks struct {
	Base Task

	Interval, Shape, Scale Range // of Poisson arrivals and Pareto sizes
	Servers                [2]int
	// RateScale is a factor on each server's rate, drawn for each by itself.
	RateScale Range
	Permute   bool // shuffle the rates among the servers
	// KeepLoad scales the interval so that the offered load is what it would be
	// with Base's rates. Park's default load is 0.91 already: without KeepLoad a
	// task that lacks a server is an overload. It needs Poisson arrivals.
	KeepLoad bool
	// Load is the offered load, drawn evenly, from which the interval follows: the mean job over the
	// load and the sum of the rates. Sizes of any shape can so be met at any load; with an interval
	// and a scale drawn apart, light tails come with little load. It needs Poisson arrivals and
	// sizes that have a mean.
	Load Range

	IntervalDrift, SizeDrift Range

	// Numbers of servers that, once in an episode each, change their rate by a
	// factor of SlowFactor; fail for the share Outage of the episode's expected
	// length; or join late, in its first half. No server does more than one of
	// these, and one server at least neither fails nor joins.
	Slow, Fail, Join [2]int
	SlowFactor       Range
	Outage           Range
	// Jobs of an episode, from which its expected length follows where servers
	// change.
	Jobs int
}

// Check validates the distribution. Draw relies on it.
func (d *Tasks) Check() error {
	if err := d.Base.check(); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		g    Range
	}{
		{"interval", d.Interval}, {"size shape", d.Shape}, {"size scale", d.Scale}, {"rate scale", d.RateScale},
		{"load", d.Load}, {"interval drift", d.IntervalDrift}, {"size drift", d.SizeDrift},
		{"slow factor", d.SlowFactor}, {"outage", d.Outage},
	} {
		if f.g != (Range{}) && !(f.g.Lo > 0 && f.g.Lo <= f.g.Hi && f.g.Hi < math.Inf(1)) {
			return fmt.Errorf("loadbalance: range of %s is [%g, %g], want 0 < low <= high", f.name, f.g.Lo, f.g.Hi)
		}
	}
	n := len(d.Base.Rates)
	if d.Servers != [2]int{} && (d.Servers[0] < 1 || d.Servers[0] > d.Servers[1] || d.Servers[1] > n) {
		return fmt.Errorf("loadbalance: range of servers is %v, want [low, high] between 1 and %d", d.Servers, n)
	}
	for _, f := range []struct {
		name string
		g    [2]int
	}{{"slow", d.Slow}, {"fail", d.Fail}, {"join", d.Join}} {
		if f.g[0] < 0 || f.g[0] > f.g[1] || f.g[1] > n {
			return fmt.Errorf("loadbalance: range of servers that %s is %v, want [low, high] between 0 and %d", f.name, f.g, n)
		}
	}
	if d.Slow[1] > 0 && d.SlowFactor == (Range{}) {
		return errors.New("loadbalance: servers that slow need a range of the slow factor")
	}
	if d.Fail[1] > 0 && d.Outage == (Range{}) {
		return errors.New("loadbalance: servers that fail need a range of the outage")
	}
	if d.changes() && (d.Jobs < 1 || d.Jobs > MaxJobs) {
		return fmt.Errorf("loadbalance: %d jobs an episode, want 1 to %d where servers change", d.Jobs, MaxJobs)
	}
	lo, hi := slices.Min(d.Base.Rates), slices.Max(d.Base.Rates)
	for _, g := range []Range{d.RateScale, d.SlowFactor} {
		if g != (Range{}) {
			lo, hi = lo*g.Lo, hi*g.Hi
		}
	}
	if len(d.Base.Changes) > 0 && (d.Permute || d.RateScale != Range{} || d.Servers != [2]int{} || d.changes()) {
		return errors.New("loadbalance: changes of the servers in the base task go with fixed servers only")
	}
	if !validRate(lo) || !validRate(hi) {
		return fmt.Errorf("loadbalance: service rates reach from %g to %g, want %g to %g", lo, hi, MinRate, MaxRate)
	}
	if d.Load != (Range{}) && (d.KeepLoad || d.Interval != Range{}) {
		return errors.New("loadbalance: a range of the load goes with neither a range of the interval nor keeping the load")
	}
	if shape := cmp.Or(d.Shape.Lo, d.Base.Shape); d.Load != (Range{}) && shape <= 1 {
		return fmt.Errorf("loadbalance: a range of the load with jobs of shape %g, want above 1: they have no mean", shape)
	}
	if d.Base.Workload != nil && (d.KeepLoad || d.Load != Range{} || d.Interval != Range{} || d.Shape != Range{} || d.Scale != Range{}) {
		return errors.New("loadbalance: ranges of interval, shape, scale and load, and keeping the load, are for Poisson arrivals")
	}
	return nil
}

func (d *Tasks) changes() bool { return d.Slow[1] > 0 || d.Fail[1] > 0 || d.Join[1] > 0 }

// Masks reports whether some action may be masked in some task: if so, agents
// should observe the mask.
func (d *Tasks) Masks() bool {
	return d.Servers[0] != 0 && d.Servers[0] < len(d.Base.Rates) || d.Fail[1] > 0 || d.Join[1] > 0 ||
		len(d.Base.Changes) > 0
}

func count(g [2]int, r *rand.Rand) int {
	if g[0] == g[1] {
		return g[0]
	}
	return g[0] + r.IntN(g[1]-g[0]+1)
}

// Draw draws a *Task.
func (d *Tasks) Draw(r *rand.Rand) env.Task {
	t := d.Base
	t.Rates = slices.Clone(d.Base.Rates)
	draw := func(dst *float64, g Range, from func(Range, *rand.Rand) float64) {
		if g != (Range{}) {
			*dst = from(g, r)
		}
	}
	draw(&t.Interval, d.Interval, Range.logUniform)
	draw(&t.Shape, d.Shape, Range.uniform)
	draw(&t.Scale, d.Scale, Range.logUniform)
	draw(&t.IntervalDrift, d.IntervalDrift, Range.logUniform)
	draw(&t.SizeDrift, d.SizeDrift, Range.logUniform)

	if d.RateScale != (Range{}) {
		for i := range t.Rates {
			t.Rates[i] *= d.RateScale.logUniform(r)
		}
	}
	if d.Permute {
		r.Shuffle(len(t.Rates), func(i, j int) { t.Rates[i], t.Rates[j] = t.Rates[j], t.Rates[i] })
	}
	if d.Servers != [2]int{} {
		for _, i := range r.Perm(len(t.Rates))[count(d.Servers, r):] {
			t.Rates[i] = 0
		}
	}
	switch {
	case d.KeepLoad:
		t.Interval *= sum(d.Base.Rates) / sum(t.Rates)
	case d.Load != Range{}:
		size := t.Scale * t.Shape / (t.Shape - 1)
		t.Interval = size / (d.Load.uniform(r) * sum(t.Rates))
	}
	if d.changes() {
		t.Changes = d.drawChanges(r, &t)
	}
	return &t
}

func sum(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total
}

// drawChanges draws the life of t's servers and lets those that join late start
// at rate 0.
func (d *Tasks) drawChanges(r *rand.Rand, t *Task) []Change {
	var present []int
	for i, rate := range t.Rates {
		if rate > 0 {
			present = append(present, i)
		}
	}
	r.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
	slow, fail, join := count(d.Slow, r), count(d.Fail, r), count(d.Join, r)
	fail = min(fail, len(present)-1)
	join = min(join, len(present)-1-fail)
	failing, rest := present[:fail], present[fail:]
	joining, rest := rest[:join], rest[join:]
	slowing := rest[:min(slow, len(rest))]

	length := t.Interval * float64(d.Jobs)
	at := func(share float64) int64 { return truncate(share*length, maxTime) }
	var changes []Change
	for _, i := range slowing {
		changes = append(changes, Change{at(r.Float64()), i, t.Rates[i] * d.SlowFactor.logUniform(r)})
	}
	for _, i := range failing {
		down := r.Float64()
		back := down + d.Outage.logUniform(r)
		changes = append(changes, Change{at(down), i, 0}, Change{at(back), i, t.Rates[i]})
	}
	for _, i := range joining {
		changes = append(changes, Change{at(r.Float64() / 2), i, t.Rates[i]})
		t.Rates[i] = 0
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return int(min(max(a.Time-b.Time, -1), 1)) })
	return changes
}

// check validates a task.
func (t *Task) check() error {
	if t.Workload == nil {
		for _, f := range []struct {
			name  string
			value float64
		}{{"interval", t.Interval}, {"size shape", t.Shape}, {"size scale", t.Scale}} {
			if !(f.value > 0) || math.IsInf(f.value, 1) {
				return fmt.Errorf("loadbalance: job %s is %g, want above 0", f.name, f.value)
			}
		}
	}
	for _, f := range []struct {
		name  string
		value float64
	}{{"interval", t.IntervalDrift}, {"size", t.SizeDrift}} {
		if !(f.value >= 0) || math.IsInf(f.value, 1) {
			return fmt.Errorf("loadbalance: %s drift is %g, want above 0, or 0 for none", f.name, f.value)
		}
	}
	if len(t.Rates) == 0 || len(t.Rates) > MaxServers {
		return fmt.Errorf("loadbalance: %d servers, want 1 to %d", len(t.Rates), MaxServers)
	}
	return nil
}

// drift scales a source's gaps and sizes by factors that grow geometrically
// from 1 at the first job to their end values at the last. Rounding down is
// carried over for gaps, so that their sum drifts as it should.
type drift struct {
	src                 Source
	gap, size           float64 // the next job's factors
	gapRatio, sizeRatio float64
	carry               float64
}

func (d *drift) reset(src Source, interval, size float64, jobs int) {
	ratio := func(end float64) float64 {
		if end == 0 || jobs < 2 {
			return 1
		}
		return math.Pow(end, 1/float64(jobs-1))
	}
	*d = drift{src: src, gap: 1, size: 1, gapRatio: ratio(interval), sizeRatio: ratio(size)}
}

func (d *drift) Next() (Job, error) {
	j, err := d.src.Next()
	if err != nil {
		return Job{}, err
	}
	gap := float64(j.Gap)*d.gap + d.carry
	j.Gap = truncate(gap, MaxGap)
	d.carry = max(gap-float64(j.Gap), 0)
	j.Size = truncate(float64(j.Size)*d.size, MaxSize)
	d.gap *= d.gapRatio
	d.size *= d.sizeRatio
	return j, nil
}
