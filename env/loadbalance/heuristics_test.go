package loadbalance

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func seedRange(first, last uint64) (seeds []uint64) {
	for s := first; s <= last; s++ {
		seeds = append(seeds, s)
	}
	return seeds
}

func episodes(t *testing.T, cfg WorkloadConfig, rates []float64, seeds []uint64, jobs int) *Episodes {
	t.Helper()
	w, err := NewWorkload(cfg, rates)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEpisodes(t.Context(), w, rates, seeds, jobs)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func lowerBound(t *testing.T, e *Episodes) []float64 {
	t.Helper()
	bounds, err := e.LowerBound(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return bounds
}

func scoreOf(t *testing.T, e *Episodes, name string, o PolicyOptions) []float64 {
	t.Helper()
	p, err := NewPolicy(name, o)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name() != name {
		t.Errorf("policy %s calls itself %s", name, p.Name())
	}
	scores, err := e.Score(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return scores
}

func meanOf(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

func meanRatio(a, b []float64) float64 {
	var sum float64
	for i := range a {
		sum += a[i] / b[i]
	}
	return sum / float64(len(a))
}

// The figures were computed by another implementation of Park and of the heuristics, on the same jobs. Policies that
// draw are held to ranges only, as their streams differ.
func TestHeuristicsOnParksDefaultWorkload(t *testing.T) {
	e := episodes(t, WorkloadConfig{}, DefaultRates(), seedRange(2000, 2029), 1000)
	reference := scoreOf(t, e, "left", PolicyOptions{})
	for _, c := range []struct {
		name                    string
		jct, jctOff, ratio, off float64
	}{
		{"round_robin", 14444, 0.5, 20.6, 0.05},
		{"least_load", 837, 0.5, 1.062, 0.0005},
		{"left_measured", 807, 0.5, 1.005, 0.0015},
		{"left", 815, 0.5, 1, 0},
		{"sita2_left", 640, 0.5, 0.910, 0.0005},
		{"random", 14710, 2500, 21.4, 2},
		{"rate_proportional", 4706, 400, 6.08, 0.5},
		{"power_of_two", 1473, 150, 1.92, 0.1},
		{"index", 615, 20, 0.862, 0.01},
	} {
		scores := scoreOf(t, e, c.name, PolicyOptions{})
		jct, ratio := meanOf(scores), meanRatio(scores, reference)
		if math.Abs(jct-c.jct) > c.jctOff || math.Abs(ratio-c.ratio) > c.off {
			t.Errorf("%s: mean JCT %.2f, ratio %.4f, want %v±%v, %v±%v", c.name, jct, ratio, c.jct, c.jctOff, c.ratio, c.off)
		}
	}
	bound := lowerBound(t, e)
	if jct, ratio := meanOf(bound), meanRatio(bound, reference); math.Round(jct) != 287 || math.Abs(ratio-0.42) > 0.005 {
		t.Errorf("lower bound %.2f, ratio %.4f, want 287, 0.42", jct, ratio)
	}
}

// The recorded episodes of Park were played by its own agents; ours have to choose the same, job by job.
func TestHeuristicsChooseAsRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/park/*.jsonl.gz")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	played := 0
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		in, err := plain(f)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(in)
		var header headerLine
		var jobs jobsLine
		if err := errors.Join(d.Decode(&header), d.Decode(&jobs)); err != nil {
			t.Fatal(err)
		}
		p, err := NewPolicy(header.Policy, PolicyOptions{})
		if err != nil {
			continue // "always:9" is no heuristic
		}
		played++
		var list JobList
		for i, gap := range jobs.Gap {
			list = append(list, Job{gap, jobs.Size[i]})
		}
		s := &Sim{ObsHigh: header.ObsHigh}
		if err := s.Reset(header.Rates, len(list), &list); err != nil {
			t.Fatal(err)
		}
		p.Reset(uint64(*header.Seed))
		for done := false; !done; {
			var step stepLine
			if err := d.Decode(&step); err != nil {
				t.Fatal(err)
			}
			choice := p.Choose(s)
			if choice != *step.Action {
				t.Fatalf("%s, job %d: chose %d, recorded %d", file, s.Assigned(), choice, *step.Action)
			}
			if _, _, done, err = s.Step(choice); err != nil {
				t.Fatal(err)
			}
		}
	}
	if played < 15 {
		t.Errorf("only %d files were played", played)
	}
}

func TestLEFTOnShiftedWorkloads(t *testing.T) {
	for _, c := range []struct {
		cfg WorkloadConfig
		jct float64
	}{
		{WorkloadConfig{Interval: 35}, 6356},
		{WorkloadConfig{Interval: 45}, 2265},
		{WorkloadConfig{Interval: 75}, 434},
		{WorkloadConfig{Interval: 110}, 356},
		{WorkloadConfig{Shape: 1.2}, 8672},
		{WorkloadConfig{Shape: 2}, 281},
		{WorkloadConfig{Shape: 2.5}, 212},
	} {
		e := episodes(t, c.cfg, DefaultRates(), seedRange(2000, 2029), 1000)
		if jct := meanOf(scoreOf(t, e, "left", PolicyOptions{})); math.Abs(jct-c.jct) > 0.55 {
			t.Errorf("%+v: mean JCT %.2f, want %v", c.cfg, jct, c.jct)
		}
	}
}

func TestPoliciesThatBelieveInWrongRates(t *testing.T) {
	reversed := DefaultRates()
	slices.Reverse(reversed)
	e := episodes(t, WorkloadConfig{}, reversed, seedRange(2000, 2029), 1000)
	for name, want := range map[string]float64{"left": 951, "sita2_left": 1242, "least_load": 790} {
		if jct := meanOf(scoreOf(t, e, name, PolicyOptions{Rates: DefaultRates()})); math.Round(jct) != want {
			t.Errorf("%s: mean JCT %.2f, want %v", name, jct, want)
		}
	}
}

// still returns a simulator whose first job, of the given size, waits to be assigned.
func still(t *testing.T, rates []float64, size int64) *Sim {
	t.Helper()
	s := new(Sim)
	jobs := make(JobList, 100)
	for i := range jobs {
		jobs[i] = Job{Gap: 1, Size: size}
	}
	if err := s.Reset(rates, len(jobs), &jobs); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEveryPolicyKeepsToServersThatAreUp(t *testing.T) {
	for _, rates := range [][]float64{{1}, {0, 2}, {1, 0, 0, 3, 0.5}, append(DefaultRates(), make([]float64, 30)...)} {
		for _, name := range PolicyNames() {
			p, err := NewPolicy(name, PolicyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			e := episodes(t, WorkloadConfig{}, rates, []uint64{1}, 200)
			if _, err := e.Score(t.Context(), p); err != nil {
				t.Errorf("rates %v: %v", rates, err)
			}
		}
	}
}

func TestPoliciesFollowServersThatFailAndChange(t *testing.T) {
	for _, name := range PolicyNames() {
		p, err := NewPolicy(name, PolicyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := new(Sim)
		if err := s.Reset([]float64{1, 2, 0}, 500, NewParkSource(3, 200, 1.5, 100)); err != nil {
			t.Fatal(err)
		}
		if err := s.Schedule([]Change{{5000, 1, 0}, {20000, 2, 3}, {30000, 1, 0.5}}); err != nil {
			t.Fatal(err)
		}
		p.Reset(3)
		var used [3]int
		for done := false; !done; {
			choice := p.Choose(s)
			// What is remembered of earlier rates must not matter to those that are functions of the state.
			if name == "sita2_left" || name == "index" || name == "left" {
				fresh, _ := NewPolicy(name, PolicyOptions{})
				if want := fresh.Choose(s); choice != want {
					t.Fatalf("%s at job %d chose %d, a fresh one %d", name, s.Assigned(), choice, want)
				}
			}
			used[choice]++
			if _, _, done, err = s.Step(choice); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if used[2] == 0 {
			t.Errorf("%s never used the server that joined", name)
		}
	}
}

func TestShortestQueueCountsJobsNotWork(t *testing.T) {
	s := still(t, []float64{1, 1}, 1000)
	for _, server := range []int{0, 1, 1} { // 1000 and 2000 of work
		if _, _, _, err := s.Step(server); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := s.Holding(0), s.Holding(1); a != 1 || b != 2 {
		t.Errorf("servers hold %d and %d jobs, want 1 and 2", a, b)
	}
	if got := (shortestQueue{}).Choose(s); got != 0 {
		t.Errorf("chose %d", got)
	}
}

func TestRateProportional(t *testing.T) {
	s := still(t, []float64{1, 0, 3}, 1)
	p, _ := NewPolicy("rate_proportional", PolicyOptions{})
	p.Reset(1)
	var counts [3]float64
	for range 40000 {
		counts[p.Choose(s)]++
	}
	if counts[1] != 0 || math.Abs(counts[2]/40000-0.75) > 0.01 {
		t.Errorf("shares %v of 40000, want 10000, 0, 30000", counts)
	}
}

func TestPowerOfTwoDrawsTwoDifferentServers(t *testing.T) {
	s := still(t, []float64{0.5, 0, 1}, 10)
	p, _ := NewPolicy("power_of_two", PolicyOptions{})
	p.Reset(1)
	for range 100 {
		if got := p.Choose(s); got != 2 {
			t.Fatalf("of two servers the slower one, %d, was chosen", got)
		}
	}
}

func TestSlowestShareRoundsUp(t *testing.T) {
	for _, c := range []struct {
		n     int
		share float64
		want  int
	}{{10, 0.6, 6}, {3, 0.6, 2}, {1, 0.6, 1}, {5, 0.6, 3}, {4, 1, 4}, {7, 1e-6, 1}} {
		if got := slowest(c.n, c.share); got != c.want {
			t.Errorf("%v of %d servers: %d, want %d", c.share, c.n, got, c.want)
		}
	}
}

func TestNewPolicyNamesWhatThereIs(t *testing.T) {
	if _, err := NewPolicy("lef", PolicyOptions{}); err == nil {
		t.Error("no error for an unknown policy")
	}
	if len(PolicyNames()) != len(policies) {
		t.Errorf("PolicyNames lists %d of %d policies", len(PolicyNames()), len(policies))
	}
}

func TestChoosingAllocatesNothing(t *testing.T) {
	s := still(t, DefaultRates(), 900)
	for _, name := range PolicyNames() {
		p, _ := NewPolicy(name, PolicyOptions{})
		p.Reset(1)
		p.Choose(s)
		if n := testing.AllocsPerRun(20, func() { p.Choose(s) }); n != 0 {
			t.Errorf("%s: %v allocations a choice", name, n)
		}
	}
}

func TestLowerBoundAgainstHandComputedEpisode(t *testing.T) {
	// One server of rate 2, two of rate 1 pooled: rate 4. Sizes 40 at 0 and 4 at 2, 1: the long job is served for 2,
	// the short one takes 1 and is done at 3, the long one is done at 11. Total 1 + 11; alone they take 20 and 2.
	e := &Episodes{Rates: []float64{2, 1, 1}, Seeds: []uint64{0}, Jobs: []JobList{{{0, 40}, {2, 4}}}}
	if b := lowerBound(t, e)[0]; b != 11 {
		t.Errorf("bound %v, want 11: the fastest server alone", b)
	}
	e.Rates = []float64{2, 2}
	e.Jobs[0] = JobList{{0, 40}, {0, 40}, {0, 40}} // pooled: done at 10, 20, 30; alone 20 each
	if b := lowerBound(t, e)[0]; b != 20 {
		t.Errorf("bound %v, want 20", b)
	}
	e.Jobs[0] = append(e.Jobs[0], Job{5, 4}) // preempts at 5, takes 1: totals 11, 21, 31, 1; alone 20, 20, 20, 2
	if b := lowerBound(t, e)[0]; b != 16 {
		t.Errorf("bound %v, want 16: pooled", b)
	}
}

func TestNoPolicyBeatsTheLowerBound(t *testing.T) {
	e := episodes(t, WorkloadConfig{Interval: 400}, DefaultRates(), seedRange(1, 10), 300)
	bounds := lowerBound(t, e)
	for _, name := range PolicyNames() {
		for i, s := range scoreOf(t, e, name, PolicyOptions{}) {
			if s < bounds[i] {
				t.Errorf("%s, seed %d: %v is below the bound %v", name, e.Seeds[i], s, bounds[i])
			}
		}
	}
}

func TestEpisodesRefuseBadInput(t *testing.T) {
	w, _ := NewWorkload(WorkloadConfig{}, nil)
	for _, c := range []struct {
		seeds []uint64
		jobs  int
	}{{nil, 10}, {[]uint64{1}, 0}, {[]uint64{1}, MaxJobs + 1}, {[]uint64{1 << 32}, 10}} {
		if _, err := NewEpisodes(t.Context(), w, DefaultRates(), c.seeds, c.jobs); err == nil {
			t.Errorf("no error for seeds %v and %d jobs", c.seeds, c.jobs)
		}
	}
	e := episodes(t, WorkloadConfig{}, []float64{-1}, []uint64{1}, 10)
	if _, err := e.Score(t.Context(), new(left)); err == nil {
		t.Error("no error for a negative rate")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	e = episodes(t, WorkloadConfig{}, DefaultRates(), []uint64{1}, 10)
	if _, err := e.Score(ended, new(left)); !errors.Is(err, context.Canceled) {
		t.Errorf("scored after it was asked to stop: %v", err)
	}
}

func TestJobListEnds(t *testing.T) {
	l := JobList{{1, 2}}
	if j, err := l.Next(); err != nil || j != (Job{1, 2}) {
		t.Errorf("%v, %v", j, err)
	}
	if _, err := l.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("error %v at the end, want io.EOF", err)
	}
}
