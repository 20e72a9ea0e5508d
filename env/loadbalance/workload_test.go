package loadbalance

import (
	"math"
	"strings"
	"testing"
)

func draw(t *testing.T, src Source, n int) JobList {
	t.Helper()
	jobs, err := Record(src, n)
	if err != nil || len(jobs) != n {
		t.Fatalf("%d jobs of %d, %v", len(jobs), n, err)
	}
	return jobs
}

func meanGap(jobs JobList) float64 {
	var sum int64
	for _, j := range jobs {
		sum += j.Gap
	}
	return float64(sum) / float64(len(jobs))
}

// dispersion is the variance over the mean of the number of arrivals in windows: 1 for a Poisson process.
func dispersion(jobs JobList, window int64) float64 {
	var counts []float64
	var now int64
	n := 0.0
	for _, j := range jobs {
		for now += j.Gap; now >= window; now -= window {
			counts = append(counts, n)
			n = 0
		}
		n++
	}
	mean, square := meanOf(counts), 0.0
	for _, c := range counts {
		square += (c - mean) * (c - mean)
	}
	return square / float64(len(counts)) / mean
}

func TestArrivalProcessesKeepTheMeanGap(t *testing.T) {
	const interval = 200.0 // large, since truncation takes half a unit off each gap
	for _, c := range []struct {
		name           string
		src            Source
		dispersed      bool
		jobs           int
		tolerance      float64
		smallest, want float64 // Pareto: mean of min(size, 10*scale) is scale*(3-2/sqrt(10)) at shape 1.5
	}{
		{"poisson", NewParkSource(1, interval, 1.5, 100), false, 100000, 0.02, 100, 236.75},
		{"mmpp", NewBurstSource(1, interval, 1.5, 100, 8, 4000), true, 400000, 0.03, 100, 236.75},
		{"diurnal", NewDiurnalSource(1, interval, 1.5, 100, 8, 50000), true, 200000, 0.02, 100, 236.75},
	} {
		jobs := draw(t, c.src, c.jobs)
		if gap := meanGap(jobs) + 0.5; math.Abs(gap/interval-1) > c.tolerance {
			t.Errorf("%s: mean gap %v, want %v", c.name, gap, interval)
		}
		if d := dispersion(jobs, 4000); (d > 1.5) != c.dispersed || !c.dispersed && math.Abs(d-1) > 0.1 {
			t.Errorf("%s: index of dispersion %v", c.name, d)
		}
		var capped, smallest float64 = 0, math.MaxInt64
		for _, j := range jobs {
			capped += math.Min(float64(j.Size), 1000)
			smallest = math.Min(smallest, float64(j.Size))
		}
		if capped /= float64(len(jobs)); smallest != c.smallest || math.Abs(capped/c.want-1) > 0.01 {
			t.Errorf("%s: smallest size %v, capped mean %v, want %v and %v", c.name, smallest, capped, c.smallest, c.want)
		}
	}
}

func TestHalfOfTheJobsArriveInBursts(t *testing.T) {
	s := NewBurstSource(5, 50, 1.5, 100, 4, 2000)
	in, n := 0, 200000
	for range n {
		s.Next()
		in += s.state
	}
	if share := float64(in) / float64(n); math.Abs(share-0.5) > 0.03 {
		t.Errorf("%v of the jobs arrive in bursts", share)
	}
	if ratio := s.rate[1] / s.rate[0]; math.Abs(ratio-4) > 1e-12 {
		t.Errorf("rate in bursts is %v times the rest, want 4", ratio)
	}
}

func TestDiurnalPeakToTrough(t *testing.T) {
	s := NewDiurnalSource(5, 50, 1.5, 100, 5, 100000)
	var peak, trough float64 // arrivals in a twentieth of the day around either
	for range 400000 {
		s.Next()
		switch at := s.at / s.day; {
		case math.Abs(at-0.25) < 0.025:
			peak++
		case math.Abs(at-0.75) < 0.025:
			trough++
		}
	}
	if r := peak / trough; math.Abs(r/5-1) > 0.06 {
		t.Errorf("peak over trough %v, want 5", r)
	}
}

func TestWorkloadsRepeatBySeed(t *testing.T) {
	for _, kind := range []string{Poisson, MMPP, Diurnal} {
		w, err := NewWorkload(WorkloadConfig{Kind: kind}, nil)
		if err != nil {
			t.Fatal(err)
		}
		record := func(seed uint64) JobList {
			src, err := w.Episode(seed, 50)
			if err != nil {
				t.Fatal(err)
			}
			return draw(t, src, 50)
		}
		a, b, c := record(1), record(1), record(2)
		same := 0
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("%s: job %d differs between two episodes of one seed", kind, i)
			}
			if a[i] == c[i] {
				same++
			}
		}
		if same > 5 {
			t.Errorf("%s: %d of 50 jobs are the same under another seed", kind, same)
		}
	}
}

func TestOfferedLoadSetsTheInterval(t *testing.T) {
	for _, kind := range []string{Poisson, MMPP, Diurnal} {
		// Mean size 400*2/(2-1) = 800, rates sum to 2: at a load of 0.5 the mean gap is 800.
		w, err := NewWorkload(WorkloadConfig{Kind: kind, Shape: 2, Scale: 400, Load: 0.5, Period: 5000}, []float64{0.5, 1.5})
		if err != nil {
			t.Fatal(err)
		}
		src, err := w.Episode(1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if gap := meanGap(draw(t, src, 100000)); math.Abs(gap/800-1) > 0.04 {
			t.Errorf("%s: mean gap %v, want 800", kind, gap)
		}
	}
}

func TestWorkloadConfigIsValidated(t *testing.T) {
	for _, c := range []struct {
		cfg  WorkloadConfig
		says string
	}{
		{WorkloadConfig{Kind: "bursty"}, `kind is "bursty", want poisson`},
		{WorkloadConfig{Interval: -1}, "interval is -1"},
		{WorkloadConfig{Shape: math.NaN()}, "size shape is NaN"},
		{WorkloadConfig{Scale: math.Inf(1)}, "size scale is +Inf"},
		{WorkloadConfig{Load: -0.1}, "load is -0.1"},
		{WorkloadConfig{Load: 0.5, Shape: 1}, "a Pareto shape of 1"},
		{WorkloadConfig{Kind: MMPP, Burst: 0.5}, "burst is 0.5"},
		{WorkloadConfig{Kind: MMPP, Period: 10}, "period is 10, want at least the mean gap of 55"},
		{WorkloadConfig{Kind: CSV}, "needs a file"},
		{WorkloadConfig{Kind: CSV, File: "x", Filter: "a"}, "want column=value"},
		{WorkloadConfig{Kind: SWF, File: "x", Unit: -2}, "unit is -2"},
	} {
		_, err := NewWorkload(c.cfg, []float64{1})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v, want one that says %q", c.cfg, err, c.says)
		}
	}
	if _, err := NewWorkload(WorkloadConfig{Load: 0.5}, nil); err == nil {
		t.Error("no error for a load without servers")
	}
}
