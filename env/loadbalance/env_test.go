package loadbalance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/env"
)

func newEnv(t testing.TB, change func(*Config)) *Env {
	t.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func resetEnv(t testing.TB, e *Env, task *Task, seed uint64) {
	t.Helper()
	if err := e.Reset(task, seed); err != nil {
		t.Fatal(err)
	}
}

func stepEnv(t testing.TB, e *Env, action int) env.Outcome {
	t.Helper()
	o, err := e.Step(action)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func observeEnv(e *Env) ([]float32, []bool) {
	obs, mask := make([]float32, e.Spec().Obs), make([]bool, e.Spec().Actions)
	e.Observe(obs, mask)
	return obs, mask
}

// given is a workload of fixed jobs.
type given JobList

func (g given) Episode(uint64, int) (Source, error) {
	jobs := JobList(g)
	return &jobs, nil
}

func TestObservationLayout(t *testing.T) {
	if got := newEnv(t, nil).Spec(); got != (env.Spec{Obs: 22, Actions: 10}) {
		t.Errorf("default spec %v, want 22 values and 10 actions", got)
	}
	e := newEnv(t, func(c *Config) {
		c.Servers, c.LoadScales = 3, []float64{10, 100}
		c.ObserveMask, c.ObserveRates = true, true
	})
	resetEnv(t, e, &Task{
		Rates:    []float64{0.5, 0, 2},
		Workload: given{{0, 100}, {10, 30}, {10, 1}},
		Changes:  []Change{{15, 2, 0}, {30, 1, 1}, {40, 2, 1}},
	}, 1)
	stepEnv(t, e, 0)
	obs, mask := observeEnv(e)
	if want := []float32{19, 0, 0, 3, 1.9, 0, 0, 0.3, 1, 0, 1, 0.5, 0, 2}; !slices.Equal(obs, want) {
		t.Errorf("observed %v, want %v", obs, want)
	}
	if !slices.Equal(mask, []bool{true, false, true}) {
		t.Errorf("mask %v", mask)
	}
	if _, err := e.Step(1); err == nil {
		t.Error("an absent server took a job")
	}
	stepEnv(t, e, 2)
	obs, mask = observeEnv(e)
	if want := []float32{18, 0, 1, 0.1, 1.8, 0, 0.1, 0.01, 1, 0, 0, 0.5, 0, 0}; !slices.Equal(obs, want) {
		t.Errorf("observed %v, want %v", obs, want)
	}
	if !slices.Equal(mask, []bool{true, false, false}) {
		t.Errorf("mask %v", mask)
	}
}

// Rates are measured by completions, which a failure delays, and forgotten with the episode.
func TestMeasuredRatesAreObserved(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Servers, c.LoadScales, c.ObserveMeasured = 2, []float64{10}, true })
	task := &Task{
		Rates:    []float64{0.5, 2},
		Workload: given{{0, 100}, {210, 50}, {100, 4}, {2, 1}},
		Changes:  []Change{{250, 0, 0}, {275, 0, 0.5}},
	}
	for range 2 {
		resetEnv(t, e, task, 1)
		for _, want := range [][]float32{{0, 0, 10, 0, 0}, {0, 0, 5, 0.5, 0}, {2.5, 0, 0.4, 0.5, 0}, {2.3, 0, 0.1, 0.5, 0}} {
			if obs, _ := observeEnv(e); !slices.Equal(obs, want) {
				t.Errorf("observed %v, want %v", obs, want)
			}
			action := 0
			if want[2] < 1 {
				action = 1
			}
			stepEnv(t, e, action)
		}
		if sim := e.Sim(); sim.Measured(0) != 50.0/125 || sim.Measured(1) != 2 {
			t.Errorf("measured %v and %v: want a job of 50 in 100 and an outage of 25, and one of 4 in 2, then one that took no time", sim.Measured(0), sim.Measured(1))
		}
	}
}

func TestRewardsByName(t *testing.T) {
	task := &Task{Rates: []float64{0.5}, Workload: given{{0, 100}, {10, 50}, {20, 0}}}
	for _, c := range []struct {
		reward string
		hide   bool
		want   string // reward and signal of each step
	}{
		{Settled, false, "[-20 -20] [-29 -29] [-27 -27]"},
		{Settled, true, "[-20 -1] [-29 -4] [-27 -71]"},
		{Park, false, "[-1 -1] [-4 -4] [-71 -71]"},
		{Slowdown, false, "[-0.2 -0.2] [-0.58 -0.58] [-27 -27]"},
		{Tail, false, "[-20 -20] [-109 -109] [-67 -67]"},
	} {
		e := newEnv(t, func(cfg *Config) {
			cfg.Servers, cfg.Reward, cfg.HideRates = 1, c.reward, c.hide
			cfg.RewardScale, cfg.TailStart = 0.1, 250
		})
		resetEnv(t, e, task, 1)
		var got []string
		for done := false; !done; {
			o := stepEnv(t, e, 0)
			got = append(got, fmt.Sprintf("[%.4g %.4g]", o.Reward, o.Signal))
			done = o.Done
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s, hidden rates %v: %s, want %s", c.reward, c.hide, text, c.want)
		}
		if s := e.Episode(); s.Return != -760 || s.Length != 3 || s.MeanJCT != 760.0/3 {
			t.Errorf("%s: summary %+v, want Park's return of -760 whatever the reward", c.reward, s)
		}
	}
}

// The job streams of an episode depend on task and seed alone.
func TestEpisodesAreDetermined(t *testing.T) {
	fresh, used := newEnv(t, nil), newEnv(t, nil)
	tasks := &Tasks{
		Base: *ParkTask(), Interval: Range{40, 80}, IntervalDrift: Range{0.5, 2},
		Fail: [2]int{1, 1}, Outage: Range{0.1, 0.2}, Jobs: 1000,
	}
	for seed := range uint64(5) {
		task := drawTasks(t, tasks, int(seed)+1)[seed]
		resetEnv(t, used, task, seed)
		for range 10 + seed {
			stepEnv(t, used, slices.Index(maskOf(used), true))
		}
		resetEnv(t, used, task, seed)
		if err := fresh.Reset(task, seed); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(seed, 0))
		for done := false; !done; {
			a, mask := observeEnv(fresh)
			b, _ := observeEnv(used)
			if !slices.Equal(a, b) {
				t.Fatalf("seed %d: observations differ", seed)
			}
			action := r.IntN(10)
			for !mask[action] {
				action = r.IntN(10)
			}
			o, p := stepEnv(t, fresh, action), stepEnv(t, used, action)
			if o != p {
				t.Fatalf("seed %d: outcomes differ: %v and %v", seed, o, p)
			}
			done = o.Done
		}
		if fresh.Episode() != used.Episode() {
			t.Errorf("seed %d: summaries differ", seed)
		}
	}
}

func maskOf(e *Env) []bool {
	_, mask := observeEnv(e)
	return mask
}

func TestParkJobsAreParks(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.ParkJobs = true })
	for _, seed := range []uint64{2000, 2029, 1<<32 + 2000} {
		resetEnv(t, e, ParkTask(), seed)
		jobs, err := Record(NewParkSource(uint32(seed), DefaultInterval, DefaultShape, DefaultScale), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for k, j := range jobs {
			if e.Sim().JobSize() != j.Size {
				t.Fatalf("seed %d, job %d: size %d, want %d", seed, k, e.Sim().JobSize(), j.Size)
			}
			stepEnv(t, e, k%10)
		}
	}
	fast := newEnv(t, nil)
	resetEnv(t, fast, ParkTask(), 2000)
	resetEnv(t, e, ParkTask(), 2000)
	if fast.Sim().Time() == e.Sim().Time() && fast.Sim().JobSize() == e.Sim().JobSize() {
		t.Error("the fast source gave Park's first job")
	}
}

func TestWorkloadHook(t *testing.T) {
	e := newEnv(t, nil)
	task := ParkTask()
	task.Workload = oneJob{}
	resetEnv(t, e, task, 77)
	if e.Sim().JobSize() != 77 {
		t.Errorf("first job of size %d, want the workload's 77", e.Sim().JobSize())
	}
	if o := stepEnv(t, e, 9); !o.Done {
		t.Error("the episode outlives its workload")
	}
}

func TestTrialOverTasks(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.Jobs, c.ObserveMask = 50, true })
	tasks := &Tasks{Base: *ParkTask(), Servers: [2]int{2, 5}, Permute: true}
	trial, err := env.NewTrial(e, tasks, 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	var rates []float64
	action, episodes := 0, 0
	for range 10 * 151 {
		s, err := trial.Next(action)
		if err != nil {
			t.Fatal(err)
		}
		action = slices.Index(s.Mask, true)
		if s.Flags&env.First != 0 {
			rates = slices.Clone(e.Sim().Rates())
		} else if !slices.Equal(rates, e.Sim().Rates()) {
			t.Fatal("the task changed within a trial")
		}
		for i, allowed := range s.Mask {
			if allowed != (rates[i] > 0) || (s.Obs[22+i] == 1) != allowed {
				t.Fatalf("rates %v, mask %v, observed %v", rates, s.Mask, s.Obs[22:32])
			}
		}
		if sum, ok := trial.Finished(); ok {
			episodes++
			if sum.Task != "park" || sum.Length != 50 || sum.MeanJCT <= 0 || math.Abs(sum.Return+50*sum.MeanJCT) > 1e-6 {
				t.Fatalf("summary %+v", sum)
			}
		}
	}
	if episodes != 30 {
		t.Errorf("%d episodes in ten trials of three", episodes)
	}
}

func TestEnvRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Servers = 0 }, "0 servers"},
		{func(c *Config) { c.Jobs = 0 }, "0 jobs"},
		{func(c *Config) { c.Reward = "profit" }, `reward is "profit", want one of settled, park, slowdown, tail`},
		{func(c *Config) { c.RewardScale = 0 }, "reward scale is 0"},
		{func(c *Config) { c.RewardScale = math.NaN() }, "reward scale is NaN"},
		{func(c *Config) { c.LoadScales = nil }, "no load scales"},
		{func(c *Config) { c.LoadScales = []float64{1, -1} }, "load scale is -1"},
		{func(c *Config) { c.ObsHigh = -1 }, "cap of observations is -1"},
		{func(c *Config) { c.Reward, c.TailStart = Tail, -1 }, "tail start is -1"},
	} {
		cfg := DefaultConfig()
		c.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	e := newEnv(t, nil)
	if _, err := e.Step(0); err == nil {
		t.Error("a step before the first reset")
	}
	for _, c := range []struct {
		change func(*Task)
		want   string
	}{
		{func(k *Task) { k.Rates = k.Rates[:9] }, "has 9 servers, want 10"},
		{func(k *Task) { k.Shape = -1 }, "size shape is -1"},
		{func(k *Task) { k.Rates[3] = 1e9 }, "rate 1e+09 of server 3"},
		{func(k *Task) { k.Changes = []Change{{5, 0, 0}} }, "never comes back"},
	} {
		task := ParkTask()
		c.change(task)
		if err := e.Reset(task, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	if err := e.Reset(env.Task(strange{}), 1); err == nil || !strings.Contains(err.Error(), "strange") {
		t.Errorf("a strange task: %v", err)
	}
}

type strange struct{}

func (strange) Name() string { return "strange" }

func TestEnvDoesNotAllocate(t *testing.T) {
	for _, park := range []bool{false, true} {
		e := newEnv(t, func(c *Config) { c.Jobs, c.ParkJobs = 20, park })
		task := ParkTask()
		task.IntervalDrift = 2
		trial, err := env.NewTrial(e, env.Fixed(task), 2, 1)
		if err != nil {
			t.Fatal(err)
		}
		action := 0
		if n := testing.AllocsPerRun(2000, func() {
			action++
			if _, err := trial.Next(action % 10); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("Park's jobs %v: %v allocations a step, resets included", park, n)
		}
	}
}
