package dispatch

import (
	"math"
	"testing"
	"time"
)

// Queues by reported completions: the oldest job is in service, another may be reported first, and rates follow what
// completions tell.
func TestReportedCompletions(t *testing.T) {
	now := newClock().Now()
	plan := DefaultPlan()
	plan.Rates, plan.Measure = []float64{2, 1}, true
	q := newQueues(&plan, 2, now)
	at := func(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }
	for i, id := range []string{"a", "b", "c"} {
		q.advance(at(10 * i))
		if err := q.push(0, id, 100, at(10*i)); err != nil {
			t.Fatal(err)
		}
	}
	loads := make([]float64, 2)
	check := func(ms int, want, backlog float64) {
		t.Helper()
		q.advance(at(ms))
		q.loads(loads, at(ms))
		if math.Abs(loads[0]-want) > 1e-9 || loads[1] != 0 || math.Abs(q.backlog(0, at(ms))-backlog) > 1e-9 {
			t.Errorf("at %d ms: loads %v and backlog %v, want %v and %v", ms, loads, q.backlog(0, at(ms)), want, backlog)
		}
	}
	check(20, 200+30, 100+30) // a has 50 ms at rate 2, of which 30 are left
	if _, err := q.complete("b", at(20)); err != nil {
		t.Fatal(err)
	}
	check(20, 100+30, 50+30)
	// a is late: it shows that the rate is at most 100/80.
	check(80, 100, 80)
	q.advance(at(100))
	if response, err := q.complete("a", at(100)); err != nil || response != 100*time.Millisecond {
		t.Errorf("response %v, %v", response, err)
	}
	// It took 100 ms at rate 1; the mean time of a unit is 0.8*0.5 + 0.2*1.
	if want := 1 / 0.6; math.Abs(q.rates[0]-want) > 1e-9 {
		t.Errorf("the rate is %v, want %v", q.rates[0], want)
	}
	if _, err := q.complete("a", at(100)); err == nil {
		t.Error("a job is complete twice")
	}
	if err := q.push(1, "c", 1, at(100)); err == nil {
		t.Error("a job arrives twice")
	}
	// a was there for 100 ms, b for 10, c for 80.
	if area := q.takeArea(); math.Abs(area-190) > 1e-9 || q.takeArea() != 0 {
		t.Errorf("the integral of the number of jobs is %v", area)
	}
}

// Canary streams are chosen evenly, and a share that rises keeps those that it had.
func TestPositionsAreEven(t *testing.T) {
	var tenths [10]int
	for i := range 10_000 {
		p := position(name(i))
		if !(p >= 0 && p < 1) || p != position(name(i)) {
			t.Fatal(p)
		}
		tenths[int(p*10)]++
	}
	for i, n := range tenths {
		if n < 850 || n > 1150 { // five standard deviations of a binomial
			t.Errorf("%d of 10000 streams lie in tenth %d", n, i)
		}
	}
}

func TestReference(t *testing.T) {
	rates := []float64{1, 2, 4}
	rate := func(i int) float64 { return rates[i] }
	up := []bool{true, true, true}
	for _, c := range []struct {
		rule  string
		loads []float64
		size  float64
		want  int
	}{
		{RefLEFT, []float64{0, 0, 0}, 10, 2}, {RefLEFT, []float64{0, 0, 100}, 10, 1}, {RefLEFT, []float64{0, 30, 100}, 10, 0},
		{RefLeastLoad, []float64{5, 3, 4}, 10, 1}, {RefLeastLoad, []float64{3, 3, 4}, 10, 0},
	} {
		if got := refer(c.rule, c.loads, c.size, up, rate); got != c.want {
			t.Errorf("%s at %v: %d, want %d", c.rule, c.loads, got, c.want)
		}
	}
	if got := refer(RefLEFT, []float64{0, 0, 0}, 10, []bool{true, false, false}, rate); got != 0 {
		t.Errorf("a server that is down: %d", got)
	}
}
