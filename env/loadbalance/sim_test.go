package loadbalance

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func mustReset(t testing.TB, s *Sim, rates []float64, jobs JobList) {
	t.Helper()
	if err := s.Reset(rates, len(jobs), &jobs); err != nil {
		t.Fatal(err)
	}
}

func mustStep(t testing.TB, s *Sim, server int) (park, settled float64, done bool) {
	t.Helper()
	park, settled, done, err := s.Step(server)
	if err != nil {
		t.Fatal(err)
	}
	return park, settled, done
}

func observed(s *Sim) []float64 {
	obs := make([]float64, s.Servers()+1)
	s.Observe(obs)
	return obs
}

func wantObs(t testing.TB, s *Sim, want ...float64) {
	t.Helper()
	got := observed(s)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("time %d: observed %v, want %v", s.Time(), got, want)
			return
		}
	}
}

// Observed load mixes the queue's sizes with the running job's time, and both
// rewards are what a hand computes.
func TestSimByHand(t *testing.T) {
	var s Sim
	mustReset(t, &s, []float64{0.3, 2}, JobList{{5, 100}, {10, 7}, {0, 50}})
	wantObs(t, &s, 0, 0, 100)
	if park, settled, _ := mustStep(t, &s, 0); park != -10 || settled != -333 {
		t.Errorf("rewards %v, %v, want -10, -333", park, settled)
	}
	wantObs(t, &s, 323, 0, 7)
	if park, settled, _ := mustStep(t, &s, 0); park != 0 || settled != -323-23 {
		t.Errorf("rewards %v, %v, want 0, -346", park, settled)
	}
	wantObs(t, &s, 330, 0, 50)
	if s.Backlog(0) != 346 || s.Backlog(1) != 0 {
		t.Errorf("backlogs %d and %d, want 346 and 0", s.Backlog(0), s.Backlog(1))
	}
	park, settled, done := mustStep(t, &s, 1)
	if park != -323-346-25 || settled != -25 || !done {
		t.Errorf("rewards %v, %v, done %v, want -694, -25, true", park, settled, done)
	}
	wantObs(t, &s, 0, 0, 0)
	if s.Time() != 361 || s.Finished() != 3 || s.MeanJCT() != 704.0/3 {
		t.Errorf("ended at %d with %d jobs and mean %v, want 361, 3, %v", s.Time(), s.Finished(), s.MeanJCT(), 704.0/3)
	}
	if _, _, _, err := s.Step(0); !errors.Is(err, ErrDone) {
		t.Errorf("a step after the end: %v", err)
	}
}

func TestSettledAndParkReturnsAreEqual(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	var s Sim
	for seed := range uint32(20) {
		if err := s.Reset(DefaultRates(), 1000, NewParkSource(seed, DefaultInterval, DefaultShape, DefaultScale)); err != nil {
			t.Fatal(err)
		}
		total := 0.0
		for !s.Done() {
			_, settled, _ := mustStep(t, &s, r.IntN(10))
			total += settled
		}
		if total != s.Return() {
			t.Errorf("seed %d: settled rewards sum to %v, Park's to %v", seed, total, s.Return())
		}
	}
}

func TestObservationIsCapped(t *testing.T) {
	s := Sim{ObsHigh: 20}
	mustReset(t, &s, []float64{1}, JobList{{0, 30}, {1, 5}})
	if got := observed(&s); got[1] != 20 {
		t.Errorf("observed %v, want a size of 20", got)
	}
	mustStep(t, &s, 0)
	obs := make([]float64, 2)
	if capped := s.Observe(obs); capped != 1 || obs[0] != 20 || obs[1] != 5 {
		t.Errorf("observed %v with %d capped, want [20 5] and 1", obs, capped)
	}
	s.ObsHigh = 0
	if s.Observe(obs); obs[0] != 29 {
		t.Errorf("under the default cap observed %v", obs)
	}
}

func TestFiniteSourceEndsTheEpisode(t *testing.T) {
	var s Sim
	jobs := JobList{{1, 10}, {1, 10}}
	if err := s.Reset([]float64{1}, 100, &jobs); err != nil {
		t.Fatal(err)
	}
	mustStep(t, &s, 0)
	if _, _, done := mustStep(t, &s, 0); !done || s.Assigned() != 2 {
		t.Errorf("done %v after %d jobs", done, s.Assigned())
	}
	if err := s.Reset([]float64{1}, 100, &jobs); !errors.Is(err, io.EOF) {
		t.Errorf("an empty source: %v", err)
	}
}

func TestSimRefuses(t *testing.T) {
	var s Sim
	for _, c := range []struct {
		rates []float64
		count int
		jobs  JobList
		want  string
	}{
		{nil, 1, JobList{{1, 1}}, "0 servers"},
		{make([]float64, MaxServers+1), 1, JobList{{1, 1}}, "1025 servers"},
		{[]float64{0, 0}, 1, JobList{{1, 1}}, "every server is down"},
		{[]float64{1, math.NaN()}, 1, JobList{{1, 1}}, "service rate NaN of server 1"},
		{[]float64{1, -1}, 1, JobList{{1, 1}}, "service rate -1 of server 1"},
		{[]float64{1}, 0, JobList{{1, 1}}, "0 jobs"},
		{[]float64{1}, 1, JobList{{-1, 1}}, "gap -1"},
		{[]float64{1}, 1, JobList{{1, MaxSize + 1}}, "size 68719476737"},
		{[]float64{1}, 2, JobList{{1, 1}, {1, -1}}, "job 1: gap 1 and size -1"},
	} {
		jobs := c.jobs
		err := s.Reset(c.rates, c.count, &jobs)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("rates %v and jobs %v: %v, want %q", c.rates[:min(2, len(c.rates))], c.jobs, err, c.want)
		}
		if _, _, _, err := s.Step(0); !errors.Is(err, ErrDone) {
			t.Errorf("a step after a failed reset: %v", err)
		}
	}
	mustReset(t, &s, []float64{1, 0}, JobList{{1, 1}})
	for _, server := range []int{-1, 1, 2} {
		if _, _, _, err := s.Step(server); !errors.Is(err, ErrMasked) {
			t.Errorf("server %d: %v, want ErrMasked", server, err)
		}
	}
	mustStep(t, &s, 0) // a refused step costs nothing
}

func TestBacklogIsBounded(t *testing.T) {
	var s Sim
	jobs := make(JobList, 100)
	for k := range jobs {
		jobs[k] = Job{0, MaxSize}
	}
	mustReset(t, &s, []float64{MinRate}, jobs)
	for range jobs {
		if _, _, _, err := s.Step(0); err != nil {
			if !strings.Contains(err.Error(), "backlog of server 0 exceeds") {
				t.Error(err)
			}
			return
		}
	}
	t.Errorf("a backlog of %d was accepted", s.Backlog(0))
}

func TestSimDoesNotAllocate(t *testing.T) {
	var s Sim
	rates := DefaultRates()
	fast := NewFastSource(1, DefaultInterval, DefaultShape, DefaultScale)
	obs := make([]float64, len(rates)+1)
	changes := []Change{{1000, 3, 0}, {2000, 3, 0.2}, {2500, 9, 0.5}}
	episode := func() {
		if err := s.Reset(rates, 100, fast); err != nil {
			t.Fatal(err)
		}
		s.changes = append(s.changes, changes...) // checking them allocates
		for k := 0; !s.Done(); k++ {
			if s.Up(k % 10) {
				mustStep(t, &s, k%10)
			}
			s.Observe(obs)
		}
	}
	if n := testing.AllocsPerRun(20, episode); n != 0 {
		t.Errorf("%v allocations an episode", n)
	}
}
