package dispatch

import (
	"errors"
	"testing"
	"time"
)

// Each step up needs a human and what the plan wants; each step down is taken at once.
func TestSteps(t *testing.T) {
	plan := testPlan()
	plan.Stage, plan.Canary, plan.Step = Shadow, []float64{0.1, 0.4}, StepPlan{After: time.Hour, Blocks: 1}
	plan.Guards.Cost.Block = 10
	r := start(t, Config{Plan: plan})
	if err := r.Approve(0, true); !errors.Is(err, ErrRefused) {
		t.Errorf("a step without parameters: %v", err)
	}
	r.offer(t, 1, testParams(t, r.policy, 1, 0, 0, 90)) // on idle servers, what LEFT does
	block := func() {
		before := r.Status().Blocks
		for i := range 10 {
			r.clock.add(time.Second)
			r.decide(t, Request{Stream: "a", Size: 100, Start: i == 0})
		}
		eventually(t, "a replay", func() bool { return r.Status().Blocks > before })
	}
	if err := r.Approve(0, false); !errors.Is(err, ErrRefused) {
		t.Errorf("a step at once: %v", err)
	}
	r.clock.add(time.Hour)
	if err := r.Approve(0, false); !errors.Is(err, ErrRefused) {
		t.Errorf("a step without a replay: %v", err)
	}
	for _, want := range []struct {
		stage Stage
		share float64
	}{{Canary, 0.1}, {Canary, 0.4}, {Active, 1}} {
		r.clock.add(time.Hour)
		block()
		r.tend()
		if s := r.Status(); !s.Ready || s.Stage == want.stage && s.Share == want.share {
			t.Fatalf("%+v before approval", s)
		}
		if err := r.Approve(0, false); err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); s.Stage != want.stage || s.Share != want.share || s.Ready {
			t.Errorf("%+v", s)
		}
	}
	if err := r.Approve(0, true); !errors.Is(err, ErrRefused) {
		t.Errorf("a step above active: %v", err)
	}
	if err := r.StepDown(Active); !errors.Is(err, ErrRefused) {
		t.Errorf("a step down to the same: %v", err)
	}
	if err := r.StepDown(Shadow); err != nil || r.Status().Stage != Shadow {
		t.Error(err)
	}
	if d := r.decide(t, Request{Stream: "a", Size: 1}); d.Reason != ReasonStage {
		t.Errorf("%+v", d)
	}
	if err := r.Approve(0, true); err != nil || r.Status().Stage != Canary {
		t.Errorf("a forced step: %v", err)
	}
}

// A plan that approves takes the steps by itself.
func TestPlansThatApprove(t *testing.T) {
	plan := testPlan()
	plan.Stage, plan.Canary, plan.Approval, plan.Step = Shadow, []float64{0.5}, "plan", StepPlan{After: time.Hour}
	r := start(t, Config{Plan: plan})
	r.offer(t, 1, testParams(t, r.policy, 1))
	for _, want := range []Stage{Shadow, Canary, Active, Active} {
		r.tend()
		if s := r.Status(); s.Stage != want {
			t.Errorf("stage %s, want %s", s.Stage, want)
		}
		r.clock.add(time.Hour)
	}
}

// Beyond the shadow stage newer parameters wait for a human.
func TestNewerParametersWait(t *testing.T) {
	plan := testPlan()
	plan.Stage = Shadow
	r := start(t, Config{Plan: plan})
	r.offer(t, 1, testParams(t, r.policy, 1))
	r.offer(t, 2, testParams(t, r.policy, 2))
	if s := r.Status(); s.Waiting != 0 || !s.Versions[1].Acting {
		t.Errorf("%+v in the shadow stage", s)
	}
	if err := r.Approve(0, true); err != nil {
		t.Fatal(err)
	}
	r.offer(t, 3, testParams(t, r.policy, 3))
	if s := r.Status(); s.Waiting != 3 || !s.Versions[1].Acting {
		t.Errorf("%+v", s)
	}
	if err := r.Approve(9, false); !errors.Is(err, ErrUnknown) {
		t.Errorf("a version that is not there: %v", err)
	}
	if err := r.Rollback(9); !errors.Is(err, ErrUnknown) {
		t.Errorf("a version that is not there: %v", err)
	}
}
