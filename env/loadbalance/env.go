package loadbalance

import (
	"fmt"

	"github.com/dreamfleet/dreamfleet/env"
)

// Config says how an Env shows the simulator to an agent.
type Config struct {
	Servers int // servers of every task, absent ones included: the number of actions
	Jobs    int // jobs, so steps, of an episode

	Reward      string  // by name
	RewardScale float64 // factor on the reward, and on the signal
	TailStart   float64 // for the reward Tail

	// LoadScales are divisors: the observation holds one copy of Park's
	// (Servers loads and the incoming size) under each.
	LoadScales []float64
	// ObserveMask appends 1 for each server that takes jobs and 0 for others.
	ObserveMask bool
	// ObserveRates appends the present service rates, 0 for a server that is down.
	ObserveRates bool
	// ObserveMeasured appends each server's rate as measured by the job that it completed last, see Sim.Measured.
	ObserveMeasured bool
	// HideRates makes Park's realised reward the signal. Otherwise the signal is
	// the reward, which, if settled, gives the rate away.
	HideRates bool
	// ObsHigh caps observed loads and sizes; 0 is Park's DefaultObsHigh.
	ObsHigh float64

	// ParkJobs draws a task's jobs by ParkSource from the low 32 bits of an
	// episode's seed, so that Reset(task, seed) has the jobs of Park's
	// env.seed(seed); env.reset(). The default is FastSource.
	ParkJobs bool
}

// DefaultConfig is Park's size with the settled reward. Scale 100 is the
// smallest job's size; 5000 keeps loads nearly linear under a symmetric
// logarithm up to what good policies meet.
func DefaultConfig() Config {
	return Config{
		Servers: 10, Jobs: 1000,
		Reward: Settled, RewardScale: 0.01, TailStart: DefaultTailStart,
		LoadScales: []float64{100, 5000},
	}
}

// Env shows a Sim to an agent; it implements env.Env for tasks of type *Task.
// Steps do not allocate. Its observation is, in this order,
//
//	for each scale s: load of each server / s, then the incoming size / s
//	with ObserveMask: 1 or 0 for each server
//	with ObserveRates: the rate of each server
//	with ObserveMeasured: the measured rate of each server
type Env struct {
	cfg  Config
	spec env.Spec
	view *View

	sim   Sim
	task  *Task
	park  ParkSource
	fast  *FastSource
	drift drift
	loads []float64 // Park's observation
	rates []float64 // measured
}

// New validates cfg.
func New(cfg Config) (*Env, error) {
	view, err := NewView(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Jobs < 1 || cfg.Jobs > MaxJobs {
		return nil, fmt.Errorf("loadbalance: %d jobs an episode, want 1 to %d", cfg.Jobs, MaxJobs)
	}
	e := &Env{
		cfg:   cfg,
		view:  view,
		sim:   Sim{ObsHigh: cfg.ObsHigh},
		fast:  NewFastSource(0, 1, 1, 1),
		loads: make([]float64, cfg.Servers+1),
		rates: make([]float64, cfg.Servers),
	}
	e.spec = env.Spec{Obs: view.Width(), Actions: cfg.Servers}
	e.sim.done = true
	return e, nil
}

// Spec is fixed by the configuration.
func (e *Env) Spec() env.Spec { return e.spec }

// Sim is the simulator, for policies that look at it instead of the
// observation. Stepping it behind the environment's back loses rewards.
func (e *Env) Sim() *Sim { return &e.sim }

// Reset starts an episode of a *Task with as many servers as the configuration has.
func (e *Env) Reset(task env.Task, seed uint64) error {
	t, ok := task.(*Task)
	if !ok {
		return fmt.Errorf("loadbalance: cannot play a task of type %T", task)
	}
	if err := t.check(); err != nil {
		return err
	}
	if len(t.Rates) != e.cfg.Servers {
		return fmt.Errorf("loadbalance: task %s has %d servers, want %d", t.Label, len(t.Rates), e.cfg.Servers)
	}
	src, err := e.source(t, seed)
	if err != nil {
		return err
	}
	e.task = t
	if err := e.sim.Reset(t.Rates, e.cfg.Jobs, src); err != nil {
		return err
	}
	if len(t.Changes) > 0 {
		return e.sim.Schedule(t.Changes)
	}
	return nil
}

func (e *Env) source(t *Task, seed uint64) (src Source, err error) {
	switch {
	case t.Workload != nil:
		if src, err = t.Workload.Episode(seed, e.cfg.Jobs); err != nil {
			return nil, err
		}
	case e.cfg.ParkJobs:
		e.park.reset(uint32(seed), t.Interval, t.Shape, t.Scale)
		src = &e.park
	default:
		e.fast.reset(seed, t.Interval, t.Shape, t.Scale)
		src = e.fast
	}
	if none(t.IntervalDrift) && none(t.SizeDrift) {
		return src, nil
	}
	e.drift.reset(src, t.IntervalDrift, t.SizeDrift, e.cfg.Jobs)
	return &e.drift, nil
}

func none(drift float64) bool { return drift == 0 || drift == 1 }

// Observe writes the observation and which servers take jobs.
func (e *Env) Observe(obs []float32, mask []bool) {
	e.sim.Observe(e.loads)
	for i := range mask {
		mask[i] = e.sim.Up(i)
	}
	for i := range e.rates {
		e.rates[i] = e.sim.Measured(i)
	}
	e.view.Observe(obs, e.loads, mask, e.sim.Rates(), e.rates)
}

// Step assigns the incoming job.
func (e *Env) Step(action int) (env.Outcome, error) {
	size := e.sim.JobSize()
	park, settled, done, err := e.sim.Step(action)
	if err != nil {
		return env.Outcome{}, err
	}
	o := env.Outcome{Done: done}
	o.Reward, o.Signal = e.view.Reward(park, settled, size)
	return o, nil
}

// Episode summarises: Return is the sum of Park's own rewards.
func (e *Env) Episode() env.Summary {
	s := env.Summary{Return: e.sim.Return(), MeanJCT: e.sim.MeanJCT(), Length: e.sim.Assigned()}
	if e.task != nil {
		s.Task = e.task.Label
	}
	return s
}
