package dispatch

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// A server that drains less than was expected surprises, however much chance there is in each step; one that has a
// job of enormous size does not, nor does chance; and the surprise passes with what made it.
func TestSurpriseFindsTheSlowServer(t *testing.T) {
	view, err := loadbalance.NewView(testPolicy(t).Env)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	const most, limit = 50, 3 // so far do sums grow
	s, usual := make(surprise, 3), []float64{8, 8, 8}
	excess := make([]float32, view.Width())
	add := func(s surprise) {
		for k := range s {
			s.add(k, side(view, excess, k), 0, most)
		}
	}
	step := func(slow, huge float64) {
		for i := range excess {
			excess[i] = float32(0.5 * r.NormFloat64())
			switch i % 4 { // by the scale: three servers, then the job that arrives
			case 1:
				excess[i] += float32(slow)
			case 2:
				excess[i] += float32(huge)
			case 3:
				excess[i] = 100
			}
		}
		add(s)
	}
	for range 2000 {
		step(0, 0)
		if s.over(usual) > limit {
			t.Fatalf("chance surprises by %v: %v", s.over(usual), s)
		}
	}
	step(0, 1000)
	if s.over(usual) > limit {
		t.Errorf("one step surprises by %v", s.over(usual))
	}
	for range 150 {
		step(0.5, 0)
	}
	if s.over(usual) < limit || s[1] < 2*max(s[0], s[2]) {
		t.Errorf("the slow server surprises by %v: %v", s.over(usual), s)
	}
	for range 150 {
		step(0, 0)
	}
	if s.over(usual) > 1 {
		t.Errorf("what has passed surprises by %v", s.over(usual))
	}
	s = make(surprise, 3)
	for range 1000 { // as expected, to a per cent
		for i := range excess {
			excess[i] = 0.01
		}
		add(s)
	}
	if s.over(usual) != 0 {
		t.Errorf("what was expected surprises by %v", s.over(usual))
	}
}

// A hold of a stream lasts until its guard has found nothing for the whole cool-down, is one hold all that time, and
// its end is told.
func TestAHoldLastsAsLongAsItsCause(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Queue = QueueGuard{Backlog: 1000, Hold: time.Minute}
	r := start(t, Config{Plan: plan, Publish: e.publish})
	r.offer(t, 1, testParams(t, r.policy, 1))
	ask := func(load float64) Decision {
		return r.decide(t, Request{Stream: "a", Size: 1, Loads: []float64{load, 0, 0}})
	}
	r.decide(t, Request{Stream: "a", Size: 1, Start: true, Loads: []float64{0, 0, 0}})
	for range 5 {
		if d := ask(1000); d.Reason != ReasonQueue { // at a rate of 0.5
			t.Fatalf("%+v while the queue is long", d)
		}
		r.clock.add(50 * time.Second)
	}
	if d := ask(0); d.Reason != ReasonQueue {
		t.Errorf("%+v 50 s after the queue was long", d)
	}
	r.clock.add(10 * time.Second)
	if d := ask(0); d.Decider != "policy" {
		t.Errorf("%+v a minute after the queue was long", d)
	}
	if n := r.Status().HoldsBegun[ReasonQueue]; n != 1 {
		t.Errorf("%d holds", n)
	}
	eventually(t, "a hold and its end", func() bool { return e.count("hold", ReasonQueue) == 1 && e.count("release", ReasonQueue) == 1 })
}
