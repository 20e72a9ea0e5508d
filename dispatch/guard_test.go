package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/model"
)

// events collects what is escalated.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) publish(b []byte) error {
	var v Event
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, v)
	return nil
}

func (e *events) count(kind string, guard Reason) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.list {
		if v.Kind == kind && v.Hold.Guard == guard {
			n++
		}
	}
	return n
}

// provoked checks that a guard took a decision, told of it, and holds until it is released or for as long as the
// plan says.
func provoked(t *testing.T, r *rig, e *events, d Decision, guard Reason, stream string, cooldown time.Duration, calm func() Decision) {
	t.Helper()
	if d.Decider != "reference" || d.Reason != guard || d.Server != d.Reference {
		t.Fatalf("%+v, want the reference for %s", d, guard)
	}
	eventually(t, "an escalation of "+string(guard), func() bool { return e.count("hold", guard) == 1 })
	s := r.Status()
	if s.Reference[guard] < 1 || s.HoldsBegun[guard] != 1 || len(s.Holds) != 1 || s.Holds[0].Guard != guard || s.Holds[0].Stream != stream {
		t.Errorf("status %+v", s)
	}
	if d := calm(); d.Reason != guard {
		t.Errorf("%+v during the hold", d)
	}
	if cooldown > 0 {
		r.clock.add(cooldown)
		r.tend()
		if d := calm(); d.Decider != "policy" {
			t.Errorf("%+v after the cool-down", d)
		}
		return
	}
	r.clock.add(1000 * time.Hour)
	r.tend()
	if d := calm(); d.Reason != guard {
		t.Errorf("%+v of a hold that only a human ends", d)
	}
	if n, err := r.Release(""); n != 1 || err != nil {
		t.Errorf("%d released, %v", n, err)
	}
	if d := calm(); d.Decider != "policy" {
		t.Errorf("%+v after the release", d)
	}
}

// The policy is surprised once what it sees is far from all that it was calibrated on; other streams go on.
func TestSurpriseHoldsTheStream(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Surprise = SurpriseGuard{Quantile: 0.9}
	r := start(t, Config{Plan: plan, Publish: e.publish})
	r.offer(t, 1, testParams(t, r.policy, 1))
	calm := func() Decision { return r.decide(t, Request{Stream: "a", Size: 1, Loads: []float64{1, 1, 1}}) }
	r.decide(t, Request{Stream: "a", Size: 1, Start: true, Loads: []float64{1, 1, 1}})
	for range 100 {
		if d := calm(); d.Decider != "policy" {
			t.Fatalf("%+v of what is small", d)
		}
	}
	var d Decision
	for range 200 {
		if d = r.decide(t, Request{Stream: "a", Size: 1e9, Loads: []float64{4e5, 4e5, 4e5}}); d.Decider != "policy" {
			break
		}
	}
	if d := r.decide(t, Request{Stream: "b", Size: 1, Start: true}); d.Decider != "policy" {
		t.Errorf("%+v of another stream", d)
	}
	provoked(t, r, e, d, ReasonSurprise, "a", 0, calm)
}

// A quantile below those seen in calibration is exceeded as often as it says: at most the share of episodes.
func TestThresholdIsAQuantile(t *testing.T) {
	c := Calibration{Largest: []float64{1, 2, 3, 4, 5}}
	for q, want := range map[float64]float64{0.25: 2, 0.5: 3, 0.875: 4.5, 0.9999999: 5} {
		if got := c.Threshold(q); math.Abs(got-want) > 1e-5 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if !math.IsInf(c.Threshold(0), 1) || !math.IsInf(new(Calibration).Threshold(0.9), 1) {
		t.Error("without a quantile, or without episodes, there is a limit")
	}
}

func TestLongQueuesHoldTheStream(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Queue = QueueGuard{Backlog: 1000, Hold: time.Minute}
	r := start(t, Config{Plan: plan, Publish: e.publish})
	r.offer(t, 1, testParams(t, r.policy, 1))
	r.decide(t, Request{Stream: "a", Size: 1, Start: true, Loads: []float64{499, 0, 0}})
	d := r.decide(t, Request{Stream: "a", Size: 1, Loads: []float64{501, 0, 0}}) // at a rate of 0.5
	provoked(t, r, e, d, ReasonQueue, "a", time.Minute, func() Decision {
		return r.decide(t, Request{Stream: "a", Size: 1, Loads: []float64{0, 0, 0}})
	})
}

func TestSlowResponsesHoldTheStream(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Latency = LatencyGuard{Limit: time.Second}
	r := start(t, Config{Plan: plan, Publish: e.publish})
	r.offer(t, 1, testParams(t, r.policy, 1))
	var d Decision
	for i := range 200 {
		if d = r.decide(t, Request{Stream: "a", Size: 1, Start: i == 0}); d.Decider != "policy" {
			break
		}
		r.clock.add(900 * time.Millisecond)
		if i > 100 {
			r.clock.add(time.Second)
		}
		if err := r.Complete(Completion{Stream: "a", Jobs: []string{d.Job}}); err != nil {
			t.Fatal(err)
		}
	}
	provoked(t, r, e, d, ReasonLatency, "a", 0, func() Decision { return r.decide(t, Request{Stream: "a", Size: 1}) })
}

// A policy that sends everything to the slowest server is found to be worse on the same arrivals.
func TestAWorsePolicyIsHeld(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Cost = CostGuard{ErrorRate: 0.01, Margin: 0.02, Window: 100, Block: 20}
	r := start(t, Config{Plan: plan, Publish: e.publish})
	r.offer(t, 1, testParams(t, r.policy, 1, 90, 0, 0))
	calm := func() Decision { return r.decide(t, Request{Stream: "a", Size: 100, Loads: []float64{0, 0, 0}}) }
	var d Decision
	for i := range 4000 {
		r.clock.add(40 * time.Millisecond)
		if d = r.decide(t, Request{Stream: "a", Size: 100, Start: i == 0, Loads: []float64{0, 0, 0}}); d.Decider != "policy" {
			break
		}
		if i%20 == 19 {
			blocks := i/20 + 1
			eventually(t, "a replay", func() bool { s := r.Status(); return s.Blocks >= blocks || len(s.Holds) > 0 })
		}
	}
	if s := r.Status(); s.PolicyCost < 1.5*s.ReferenceCost {
		t.Errorf("the slowest server costs %v, LEFT %v", s.PolicyCost, s.ReferenceCost)
	}
	provoked(t, r, e, d, ReasonCost, "", 0, calm)
}

func TestStaleParametersAreHeld(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Parameters = ParametersGuard{MaxAge: time.Hour}
	r := start(t, Config{Plan: plan, Publish: e.publish})
	if d := r.decide(t, Request{Stream: "a", Size: 1, Start: true}); d.Reason != ReasonParameters || d.Advice != -1 {
		t.Errorf("%+v without parameters", d)
	}
	params := testParams(t, r.policy, 1)
	r.offer(t, 1, params)
	calm := func() Decision { return r.decide(t, Request{Stream: "a", Size: 1}) }
	r.clock.add(59 * time.Minute)
	r.offer(t, 1, params) // it is still the newest
	r.clock.add(59 * time.Minute)
	r.tend()
	if d := calm(); d.Decider != "policy" {
		t.Errorf("%+v", d)
	}
	r.clock.add(2 * time.Minute)
	r.tend()
	d := calm()
	if d.Reason != ReasonParameters || d.Server != d.Reference {
		t.Errorf("%+v with stale parameters", d)
	}
	eventually(t, "an escalation", func() bool { return e.count("hold", ReasonParameters) == 1 })
	if n, err := r.Release(""); n != 1 || err != nil {
		t.Errorf("%d released, %v", n, err)
	}
	r.tend()
	if d := calm(); d.Decider != "policy" {
		t.Errorf("%+v after the release", d)
	}
}

// Parameters with a value that is no number are refused, and those before go on; numbers that cease to be finite
// while the policy acts hold everything.
func TestParametersThatAreNotFinite(t *testing.T) {
	e := &events{}
	r := start(t, Config{Plan: testPlan(), Publish: e.publish})
	good := testParams(t, r.policy, 1)
	r.offer(t, 1, good)
	bad := testParams(t, r.policy, 2)
	bad.Tensors[0].Data[0] = float32(math.Inf(1))
	if err := r.Offer(t.Context(), 2, bad); !errors.Is(err, model.ErrParams) {
		t.Errorf("infinite parameters: %v", err)
	}
	if s := r.Status(); s.Refused != 1 || len(s.Versions) != 1 {
		t.Errorf("%+v", s)
	}
	eventually(t, "a warning", func() bool { return e.count("warning", ReasonParameters) == 1 })
	calm := func() Decision { return r.decide(t, Request{Stream: "a", Size: 1}) }
	r.decide(t, Request{Stream: "a", Size: 1, Start: true})
	r.mu.Lock()
	r.streams.byName["a"].memory[0] = float32(math.NaN())
	r.mu.Unlock()
	provoked(t, r, e, calm(), ReasonParameters, "", 0, calm)
}

// Of a stream that is not known the reference decides, until enough has been seen.
func TestAStreamThatIsNotKnown(t *testing.T) {
	e := &events{}
	r := start(t, Config{Plan: testPlan(), Publish: e.publish})
	r.offer(t, 1, testParams(t, r.policy, 1))
	for i := range 6 {
		d := r.decide(t, Request{Stream: "a", Size: 1})
		if unknown := i < 4; unknown != (d.Reason == ReasonState) || d.Advice < 0 {
			t.Errorf("job %d: %+v", i, d)
		}
	}
	eventually(t, "a warning", func() bool { return e.count("warning", ReasonState) == 1 })
	if d := r.decide(t, Request{Stream: "b", Size: 1, Loads: []float64{1, 2, 3}}); d.Decider != "policy" {
		t.Errorf("%+v where loads are told", d)
	}
}

// A policy that does not answer in time is not waited for, and one that often does not is held.
func TestMissedDeadlines(t *testing.T) {
	e := &events{}
	plan := testPlan()
	plan.Guards.Deadline = DeadlineGuard{Limit: time.Millisecond, Hold: time.Minute}
	clock := newClock()
	s, err := New(t.Context(), Config{Run: "test", Policy: testPolicy(t), Plan: plan, Now: clock.Now, Publish: e.publish, Log: nullLog})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Offer(t.Context(), 1, testParams(t, s.policy, 1)); err != nil {
		t.Fatal(err)
	}
	// The loop does not run: nobody answers.
	for i := range 40 {
		d, err := s.Decide(t.Context(), Request{Stream: "a", Size: 1, Start: i == 0})
		if err != nil || d.Reason != ReasonDeadline || d.Decider != "reference" || d.Server != d.Reference || d.Advice != -1 {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	status := s.Status()
	if status.Reference[ReasonDeadline] != 40 || len(status.Holds) != 1 || status.Holds[0].Guard != ReasonDeadline {
		t.Errorf("%+v", status)
	}
	// Now it does, and finds what was asked: decided already, and not decided again.
	s.plan.Guards.Deadline.Limit = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if d, err := s.Decide(ctx, Request{Stream: "a", Size: 1}); err != nil || d.Reason != ReasonDeadline || d.Advice < 0 {
		t.Errorf("%+v, %v during the hold", d, err)
	}
	if n := s.Status().Decisions; n != 41 {
		t.Errorf("%d decisions", n)
	}
	eventually(t, "an escalation", func() bool { return e.count("hold", ReasonDeadline) == 1 && e.count("warning", ReasonDeadline) == 1 })
	clock.add(time.Minute)
	s.tend()
	if d, err := s.Decide(ctx, Request{Stream: "a", Size: 1}); err != nil || d.Decider != "policy" {
		t.Errorf("%+v, %v after the cool-down", d, err)
	}
}

// A policy whose decisions cannot be recorded takes none.
func TestDecisionsThatCannotBeRecorded(t *testing.T) {
	e := &events{}
	r := start(t, Config{Plan: testPlan(), Publish: e.publish, Dir: t.TempDir()})
	r.offer(t, 1, testParams(t, r.policy, 1))
	r.audit.note(errors.New("no space left"))
	if d := r.decide(t, Request{Stream: "a", Size: 1, Start: true}); d.Reason != ReasonAudit {
		t.Errorf("%+v", d)
	}
	eventually(t, "a warning", func() bool { return e.count("warning", ReasonAudit) == 1 })
	if r.Status().AuditFailed == "" {
		t.Error("the status does not tell")
	}
	// Once a file can be written again, so can decisions.
	eventually(t, "the log's recovery", func() bool { return r.audit.failed() == nil })
	if d := r.decide(t, Request{Stream: "a", Size: 1}); d.Decider != "policy" {
		t.Errorf("%+v", d)
	}
}

// The webhook is told, again where it fails, and no more often than the plan says.
func TestWebhook(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	fail := 1
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var e Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Error(err)
		}
		bodies = append(bodies, e.Kind+" "+string(e.Hold.Guard))
		if fail > 0 {
			fail--
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer hook.Close()
	plan := testPlan()
	plan.Guards.Queue = QueueGuard{Backlog: 1, Hold: time.Minute}
	plan.Alarm = AlarmPlan{Webhook: hook.URL, Timeout: 5 * time.Second, Retries: 1}
	r := start(t, Config{Plan: plan})
	r.offer(t, 1, testParams(t, r.policy, 1))
	r.decide(t, Request{Stream: "a", Size: 1, Start: true, Loads: []float64{9, 9, 9}})
	eventually(t, "the webhook's answer", func() bool { return r.alarm.told.Load() == 1 })
	mu.Lock()
	if got := strings.Join(bodies, ", "); got != "hold queue, hold queue" {
		t.Errorf("the webhook was told %s", got)
	}
	fail = 100
	mu.Unlock()
	if _, err := r.Release("a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss of an event", func() bool { return r.Status().EventsLost == 1 })
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 4 {
		t.Errorf("the webhook was told %v", bodies)
	}
}
