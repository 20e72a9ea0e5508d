package env

import "math/rand/v2"

// Spec is the shape of an environment.
type Spec struct {
	Obs     int // values of an observation
	Actions int // largest number of actions, and length of a mask
}

// Outcome is what an action brought.
type Outcome struct {
	Reward float64 // what the agent is trained on
	Signal float64 // what the agent is shown
	Done   bool    // the episode is over
}

// Summary is an episode's score, in the environment's own unscaled units.
type Summary struct {
	Task    string  // the task's name
	Return  float64 // undiscounted sum of the environment's original reward
	MeanJCT float64 // mean job completion time; 0 where there are no jobs
	Length  int     // actions taken
}

// Env is an environment with discrete actions. It is used by one goroutine.
type Env interface {
	Spec() Spec
	// Reset starts an episode of task. The same task and seed give the same
	// episode, whatever came before. A task of another environment is an error.
	Reset(task Task, seed uint64) error
	// Observe writes the current observation (Spec().Obs values) and which
	// actions are allowed (Spec().Actions). At least one always is, after the
	// end of an episode too.
	Observe(obs []float32, mask []bool)
	// Step takes an action that the mask allows.
	Step(action int) (Outcome, error)
	// Episode summarises the episode that is running or has just ended.
	Episode() Summary
}

// Task is one environment of a family, fully determined; an Env knows the
// concrete types that it can play.
type Task interface {
	// Name groups tasks in reports. Tasks that differ in drawn numbers only
	// share the name of their distribution.
	Name() string
}

// Distribution draws tasks. All randomness comes from r.
type Distribution interface {
	Draw(r *rand.Rand) Task
}

// Fixed is the distribution of a single task.
func Fixed(task Task) Distribution { return fixed{task} }

type fixed struct{ task Task }

func (f fixed) Draw(*rand.Rand) Task { return f.task }
