package loadbalance

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func schedule(t testing.TB, s *Sim, changes ...Change) {
	t.Helper()
	if err := s.Schedule(changes); err != nil {
		t.Fatal(err)
	}
}

func TestSlowDownByHand(t *testing.T) {
	var s Sim
	mustReset(t, &s, []float64{1, 1}, JobList{{0, 100}, {10, 50}, {30, 7}})
	schedule(t, &s, Change{20, 0, 0.5})
	mustStep(t, &s, 0)
	mustStep(t, &s, 0) // at time 10, until 40
	// At 20 the first job has 80 left, then 160, of which 20 pass; the second
	// still counts by its size.
	wantObs(t, &s, 140+50, 0, 7)
	if s.Rates()[0] != 0.5 || s.Backlog(0) != 140+100 {
		t.Errorf("rate %v and backlog %d, want 0.5 and 240", s.Rates()[0], s.Backlog(0))
	}
	if _, settled, _ := mustStep(t, &s, 0); settled != -(240 + 14) {
		t.Errorf("settled %v, want -254: at the new rate", settled)
	}
	if want := 180 + 270 + 254.0; -s.Return() != want || s.Time() != 294 {
		t.Errorf("total time in system %v until %d, want %v until 294", -s.Return(), s.Time(), want)
	}
}

func TestFailureByHand(t *testing.T) {
	var s Sim
	mustReset(t, &s, []float64{1, 1}, JobList{{0, 100}, {10, 50}, {30, 7}, {100, 1}})
	schedule(t, &s, Change{20, 0, 0}, Change{60, 0, 2})
	mustStep(t, &s, 0)
	mustStep(t, &s, 0)
	wantObs(t, &s, 80+50, 0, 7) // at 40 all stands still since 20
	if s.Up(0) || !s.Up(1) || s.Rates()[0] != 0 {
		t.Errorf("server 0 up %v at rate %v", s.Up(0), s.Rates()[0])
	}
	if _, _, _, err := s.Step(0); !errors.Is(err, ErrMasked) {
		t.Errorf("a job for a failed server: %v", err)
	}
	mustStep(t, &s, 1) // until 140; back at 60 with 80 left at rate 2: done at 100, the other at 125
	wantObs(t, &s, 0, 0, 1)
	// The first job took the outage too, 100 for 100; the second 25 for 50.
	if s.Measured(0) != 2 || s.Measured(1) != 1 {
		t.Errorf("measured rates %v and %v, want 2 and 1", s.Measured(0), s.Measured(1))
	}
	mustStep(t, &s, 1)
	if want := 100 + 115 + 7 + 1.0; -s.Return() != want || s.Finished() != 4 {
		t.Errorf("total time in system %v of %d jobs, want %v of 4", -s.Return(), s.Finished(), want)
	}
}

func TestJoinAndRepairAfterTheLastArrival(t *testing.T) {
	var s Sim
	mustReset(t, &s, []float64{1, 0}, JobList{{5, 10}, {10, 20}})
	schedule(t, &s, Change{15, 1, 2}, Change{18, 1, 0}, Change{1000, 1, 1})
	if s.Up(1) {
		t.Error("server 1 is up before it joins")
	}
	mustStep(t, &s, 0)
	if !s.Up(1) {
		t.Error("server 1 has not joined before the arrival of the same instant")
	}
	if _, settled, done := mustStep(t, &s, 1); settled != -10 || !done {
		t.Errorf("settled %v, done %v, want -10, true", settled, done)
	}
	// 7 units of time left at rate 2 at the failure are 14 at rate 1.
	if want := 10 + (1014 - 15.0); -s.Return() != want || s.Time() != 1014 {
		t.Errorf("total time in system %v until %d, want %v until 1014", -s.Return(), s.Time(), want)
	}
}

// Changes that change nothing leave every number as it was.
func TestChangesToTheSameRate(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var plain, changed Sim
	for episode := range uint32(50) {
		jobs, err := Record(NewParkSource(episode, 30, 1.5, 100), 200)
		if err != nil {
			t.Fatal(err)
		}
		rates := []float64{0.3, 0.7, 1.1, 2}
		mustReset(t, &plain, rates, jobs)
		mustReset(t, &changed, rates, jobs)
		var changes []Change
		for at := int64(1); at < 8000; at += 1 + r.Int64N(300) {
			i := r.IntN(4)
			changes = append(changes, Change{at, i, rates[i]})
		}
		schedule(t, &changed, changes...)
		for !plain.Done() {
			choice := r.IntN(4)
			park, settled, done := mustStep(t, &plain, choice)
			park2, settled2, done2 := mustStep(t, &changed, choice)
			if park != park2 || settled != settled2 || done != done2 || plain.Time() != changed.Time() {
				t.Fatalf("episode %d, job %d: %v %v, without changes %v %v",
					episode, plain.Assigned(), park2, settled2, park, settled)
			}
		}
	}
}

// Whatever happens to the servers, every job is finished.
func TestJobsAreConserved(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	for range 300 {
		rates := []float64{1, 0.5, 2}
		jobs := make(JobList, 60)
		for k := range jobs {
			jobs[k] = Job{r.Int64N(8), r.Int64N(30)}
		}
		var changes []Change
		for _, i := range []int{1, 2} { // server 0 stays
			for at := r.Int64N(40); at < 300; at += 1 + r.Int64N(60) {
				rate := []float64{0, 0, 0.25, 1, 3}[r.IntN(5)]
				changes = append(changes, Change{at, i, rate})
			}
			changes = append(changes, Change{500, i, 1})
		}
		slices.SortStableFunc(changes, func(a, b Change) int { return int(a.Time - b.Time) })
		var s Sim
		mustReset(t, &s, rates, jobs)
		schedule(t, &s, changes...)
		for !s.Done() {
			before := s.Finished()
			choice := r.IntN(3)
			if !s.Up(choice) {
				choice = 0
			}
			mustStep(t, &s, choice)
			if s.Finished() < before || s.Finished() > s.Assigned() {
				t.Fatalf("%d of %d jobs finished", s.Finished(), s.Assigned())
			}
		}
		if s.Finished() != len(jobs) {
			t.Errorf("%d of %d jobs finished", s.Finished(), len(jobs))
		}
		wantObs(t, &s, 0, 0, 0, 0)
	}
}

func TestScheduleRefuses(t *testing.T) {
	for _, c := range []struct {
		changes []Change
		want    string
	}{
		{[]Change{{10, 2, 1}}, "server 2 of 2"},
		{[]Change{{10, -1, 1}}, "server -1 of 2"},
		{[]Change{{10, 0, -1}}, "rate -1"},
		{[]Change{{10, 0, 1}, {9, 0, 2}}, "change 1: time 9 is out of order"},
		{[]Change{{-1, 0, 1}}, "time -1"},
		{[]Change{{10, 0, 0}}, "server 0 fails and never comes back"},
		{[]Change{{10, 0, 0}, {10, 1, 0}, {20, 0, 1}, {20, 1, 1}}, "change 1: no server is up at time 10"},
	} {
		var s Sim
		mustReset(t, &s, []float64{1, 1}, JobList{{1, 1}, {1, 1}})
		if err := s.Schedule(c.changes); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.changes, err, c.want)
		}
	}
	var s Sim
	mustReset(t, &s, []float64{1, 1}, JobList{{1, 1}, {1, 1}})
	mustStep(t, &s, 0)
	if err := s.Schedule(nil); err == nil {
		t.Error("a schedule in the middle of an episode was accepted")
	}
	// A backlog that a new rate makes too long is an error of the step, not a wrap.
	jobs := make(JobList, 100)
	for k := range jobs {
		jobs[k] = Job{1, MaxSize}
	}
	mustReset(t, &s, []float64{MaxRate, 1}, jobs)
	schedule(t, &s, Change{90, 0, MinRate})
	for !s.Done() {
		if _, _, _, err := s.Step(0); err != nil {
			if !strings.Contains(err.Error(), "at its new rate") {
				t.Error(err)
			}
			return
		}
	}
	t.Error("a backlog without bounds was accepted")
}
