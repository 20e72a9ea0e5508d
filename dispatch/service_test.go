package dispatch

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// What a policy is shown of a stream is what the environment would have shown it, and what is published of it is
// what an actor would have published: the recorded steps are those of the simulator under the same actions.
func TestAStreamIsWhatTheEnvironmentShows(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		var chunks []*protocol.Chunk
		plan := testPlan()
		plan.Completions, plan.Experience = "assumed", Experience{Publish: true, Trial: 30, Chunk: 8}
		plan.Rates = []float64{0.5, 1, 2}
		policy := testPolicy(t)
		policy.Env.HideRates = hidden
		r := start(t, Config{Plan: plan, Policy: policy, Record: func(c *protocol.Chunk) { chunks = append(chunks, c) }})
		r.offer(t, 7, testParams(t, policy, 1))
		src := loadbalance.NewFastSource(3, 40, 1.5, 100)
		jobs, err := loadbalance.Record(src, 31)
		if err != nil {
			t.Fatal(err)
		}
		for i := range jobs {
			jobs[i].Size = jobs[i].Size / 2 * 2 // so that the simulator truncates no service time
		}
		for i, job := range jobs[:30] {
			r.clock.add(time.Duration(job.Gap) * time.Millisecond)
			r.decide(t, Request{Stream: "a", Size: job.Size, Start: i == 0})
		}
		r.stop()
		if len(chunks) != 3 {
			t.Fatalf("%d chunks of 8 steps from 30 jobs", len(chunks))
		}
		cfg := policy.Env
		cfg.Jobs = len(jobs)
		e, err := loadbalance.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		task := *loadbalance.ParkTask()
		task.Rates, task.Workload = plan.Rates, replayed(jobs)
		trial, err := env.NewTrialOf(e, &task, []uint64{1})
		if err != nil {
			t.Fatal(err)
		}
		action := 0
		for _, c := range chunks {
			if err := c.Validate(); err != nil || c.Task != TaskLabel || c.ParamVersion != 7 {
				t.Fatalf("chunk of %q by %d: %v", c.Task, c.ParamVersion, err)
			}
			for k := range c.Steps {
				want, err := trial.Next(action)
				if err != nil {
					t.Fatal(err)
				}
				action = int(c.Action[k])
				for i, v := range want.Obs {
					if got := c.Obs[k*c.ObsLen+i]; math.Abs(float64(got-v)) > 1e-4*(1+math.Abs(float64(v))) {
						t.Fatalf("hidden %v, step %d of chunk %d: value %d is %v, the environment shows %v", hidden, k, c.Seq, i, got, v)
					}
				}
				if math.Abs(float64(c.Reward[k]-want.Reward)) > 1e-4*(1+math.Abs(float64(want.Reward))) || c.Flags[k] != uint8(want.Flags) {
					t.Fatalf("hidden %v, step %d of chunk %d: reward %v and flags %d, want %v and %d", hidden, k, c.Seq, c.Reward[k], c.Flags[k], want.Reward, want.Flags)
				}
			}
		}
	}
}

// Trials of published experience end, and the next begins with an empty memory; a step that was decided late ends
// the chunk, and what follows does not seem to follow it.
func TestExperienceHasWholeTrials(t *testing.T) {
	var chunks []*protocol.Chunk
	plan := testPlan()
	plan.Experience = Experience{Publish: true, Trial: 6, Chunk: 4}
	r := start(t, Config{Plan: plan, Record: func(c *protocol.Chunk) { chunks = append(chunks, c) }})
	r.offer(t, 1, testParams(t, r.policy, 1))
	for i := range 24 {
		r.decide(t, Request{Stream: "a", Size: 10, Start: i == 0, Loads: []float64{1, 2, 3}})
	}
	r.stop()
	if len(chunks) != 6 {
		t.Fatalf("%d chunks", len(chunks))
	}
	step := 0
	for i, c := range chunks {
		if err := c.Validate(); err != nil || c.Seq != uint64(i) {
			t.Fatalf("chunk %d, number %d: %v", i, c.Seq, err)
		}
		for _, f := range c.Flags {
			if first, last := f&protocol.FlagFirst != 0, f&protocol.FlagLast != 0; first != (step%6 == 0) || last != (step%6 == 5) {
				t.Errorf("step %d has flags %d", step, f)
			}
			step++
		}
	}
}

// Requests that come at once are answered by one step, each stream as if it were alone, while other parameters are
// swapped in: none is dropped, and each is by parameters that were there.
func TestConcurrentRequestsWhileParametersSwap(t *testing.T) {
	plan := testPlan()
	plan.Versions.Adopt, plan.Versions.Keep = "follow", 3
	r := start(t, Config{Plan: plan, Dir: t.TempDir()})
	r.offer(t, 1, testParams(t, r.policy, 1, 90, 0, 0))
	const callers, each = 16, 60
	var all sync.WaitGroup
	var answered, swapped atomic.Int64
	for i := range callers {
		all.Go(func() {
			for k := range each {
				d, err := r.Decide(t.Context(), Request{Stream: name(i), Size: 10, Start: k == 0})
				if err != nil {
					t.Error(err)
					return
				}
				if d.Decider != "policy" || d.Server != int(d.Version-1)%3 {
					t.Errorf("%+v", d)
				}
				if d.Version > 1 {
					swapped.Add(1)
				}
				if err := r.Complete(Completion{Stream: name(i), Jobs: []string{d.Job}}); err != nil {
					t.Error(err)
				}
				answered.Add(1)
			}
		})
	}
	for v := uint64(2); v <= 6; v++ {
		bias := []float32{0, 0, 0}
		bias[(v-1)%3] = 90
		r.offer(t, v, testParams(t, r.policy, v, bias...))
	}
	all.Wait()
	s := r.Status()
	if answered.Load() != callers*each || s.Decisions != callers*each || s.Swaps != 6 || len(s.Versions) != 3 || s.Unfinished != 0 {
		t.Errorf("%d answers, status %+v", answered.Load(), s)
	}
}

// Streams are bounded: the one that was used least recently is forgotten, and is not known when it comes again.
func TestStreamsAreBounded(t *testing.T) {
	plan := testPlan()
	plan.Streams = 3
	r := start(t, Config{Plan: plan})
	r.offer(t, 1, testParams(t, r.policy, 1))
	for i := range 4 {
		r.decide(t, Request{Stream: name(i), Size: 10, Start: true})
	}
	if d := r.decide(t, Request{Stream: name(3), Size: 10}); d.Decider != "policy" {
		t.Errorf("%+v of a stream that is known", d)
	}
	if d := r.decide(t, Request{Stream: name(0), Size: 10}); d.Reason != ReasonState {
		t.Errorf("%+v of a stream that was forgotten", d)
	}
	if s := r.Status(); s.Streams != 3 || s.Forgotten != 2 {
		t.Errorf("%d streams, %d forgotten", s.Streams, s.Forgotten)
	}
}

func TestUnfinishedJobsAreBounded(t *testing.T) {
	plan := testPlan()
	plan.Unfinished = 2
	r := start(t, Config{Plan: plan})
	r.offer(t, 1, testParams(t, r.policy, 1))
	first := r.decide(t, Request{Stream: "a", Size: 10, Start: true})
	r.decide(t, Request{Stream: "a", Size: 10, Job: "mine"})
	if _, err := r.Decide(t.Context(), Request{Stream: "a", Size: 10}); !errors.Is(err, ErrFull) {
		t.Errorf("a third job: %v", err)
	}
	err := r.Complete(Completion{Stream: "a", Jobs: []string{"other", first.Job}})
	if !errors.Is(err, ErrUnknown) {
		t.Errorf("a job that is not known: %v", err)
	}
	if _, err := r.Decide(t.Context(), Request{Stream: "a", Size: 10, Job: "mine"}); !errors.Is(err, ErrRequest) {
		t.Errorf("a job that is there already: %v", err)
	}
	r.decide(t, Request{Stream: "a", Size: 10})
	if err := r.Complete(Completion{Stream: "b", Jobs: []string{"1"}}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a stream that is not known: %v", err)
	}
}

// Stage, versions and holds outlive the process.
func TestStateOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	plan := testPlan()
	plan.Stage = Shadow
	r := start(t, Config{Plan: plan, Dir: dir})
	r.offer(t, 3, testParams(t, r.policy, 1))
	r.offer(t, 4, testParams(t, r.policy, 2))
	if err := r.Approve(0, false); err != nil {
		t.Fatal(err)
	}
	if err := r.Rollback(3); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.hold(nil, Hold{Guard: ReasonCost, Value: 2, Limit: 1}, 0)
	r.mu.Unlock()
	r.stop()
	again := start(t, Config{Plan: plan, Dir: dir})
	s := again.Status()
	if s.Stage != Canary || !s.Pinned || len(s.Versions) != 2 || !s.Versions[0].Acting || len(s.Holds) != 1 || s.Holds[0].Guard != ReasonCost {
		t.Errorf("%+v", s)
	}
	// A rollback lasts until somebody approves of another version.
	again.offer(t, 5, testParams(t, r.policy, 3))
	if s := again.Status(); s.Versions[0].Version != 3 || !s.Versions[0].Acting || s.Waiting != 5 {
		t.Errorf("%+v", s)
	}
	if err := again.Approve(5, false); err != nil {
		t.Fatal(err)
	}
	if s := again.Status(); s.Waiting != 0 || s.Pinned {
		t.Errorf("%+v", s)
	}
	again.stop()
	for file, content := range map[string]string{stateFile: "{", filepath.Join("versions", "000000000009.safetensors"): "no"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := New(t.Context(), Config{Policy: testPolicy(t), Plan: plan, Dir: dir, Now: newClock().Now, Log: again.log}); err == nil {
		t.Error("a damaged state is taken")
	}
}
