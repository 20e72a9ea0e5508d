package env

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
)

// Flags mark a Timestep.
type Flags uint8

const (
	First        Flags = 1 << iota // first step of a trial: memory is empty, reward 0
	EpisodeStart                   // first step of an episode; set with First, too
	Last                           // last step of a trial: its action is ignored
	Terminal                       // no return follows: set with Last
)

// Extra is the number of inputs that a Trial appends to the environment's own:
// the reward signal and the flag of an episode's start.
const Extra = 2

// MaxEpisodes bounds the episodes of a trial.
const MaxEpisodes = 1 << 16

// Timestep is what an agent receives. Its slices are reused by the next one.
type Timestep struct {
	Obs    []float32 // Spec().Obs values, the last two being RL²'s
	Mask   []bool    // Spec().Actions values: allowed now
	Reward float32   // for the previous action
	Flags  Flags
}

// Trial plays trials without end on one environment. Each begins with a draw of
// a task, then plays its episodes, each from a seed of its own. Two Trials with
// equal arguments and actions give equal steps. It allocates nothing per step.
type Trial struct {
	// Blind leaves RL²'s two inputs, the reward signal and the flag of an episode's start, at 0. It is set before the
	// first Next.
	Blind bool

	env      Env
	tasks    Distribution
	episodes int      // in a trial
	seeds    []uint64 // of the episodes, where they are not drawn

	pcg      rand.PCG
	rng      *rand.Rand
	boundary rand.PCG // the stream where the current trial began
	begun    uint64   // trials

	task     Task
	running  bool
	played   int // episodes of the current trial that have ended
	spec     Spec
	step     Timestep
	summary  Summary
	finished bool
}

// NewTrial plays trials of the given number of episodes on e, with tasks and
// episode seeds drawn from seed. Environments that shall see the same tasks and
// jobs (for common random numbers) are given the same seed.
func NewTrial(e Env, tasks Distribution, episodes int, seed uint64) (*Trial, error) {
	if episodes < 1 || episodes > MaxEpisodes {
		return nil, fmt.Errorf("env: %d episodes a trial, want 1 to %d", episodes, MaxEpisodes)
	}
	spec := e.Spec()
	if spec.Obs < 0 || spec.Actions < 1 {
		return nil, fmt.Errorf("env: environment with %d observed values and %d actions", spec.Obs, spec.Actions)
	}
	t := &Trial{env: e, tasks: tasks, episodes: episodes}
	t.spec = Spec{Obs: spec.Obs + Extra, Actions: spec.Actions}
	t.step.Obs = make([]float32, t.spec.Obs)
	t.step.Mask = make([]bool, t.spec.Actions)
	t.pcg.Seed(seed, 0x747269616c)
	t.rng = rand.New(&t.pcg)
	t.boundary = t.pcg
	return t, nil
}

// NewTrialOf plays trials of task whose episodes have the given seeds, the same
// ones each time: for evaluation on common random numbers.
func NewTrialOf(e Env, task Task, seeds []uint64) (*Trial, error) {
	t, err := NewTrial(e, Fixed(task), len(seeds), 0)
	if err != nil {
		return nil, err
	}
	t.seeds = seeds
	return t, nil
}

// Spec is the environment's, with the RL² inputs counted in Obs.
func (t *Trial) Spec() Spec { return t.spec }

// Begun is the number of trials begun.
func (t *Trial) Begun() uint64 { return t.begun }

// Next takes action and returns the step it leads to, valid until the next call.
// The first call, and the one after a step flagged Last, ignores its action and
// begins a trial. After an error the next call begins a trial, too.
func (t *Trial) Next(action int) (*Timestep, error) {
	t.finished = false
	if !t.running {
		return t.begin()
	}
	outcome, err := t.env.Step(action)
	if err != nil {
		t.running = false
		return nil, fmt.Errorf("env: action %d: %w", action, err)
	}
	t.step.Flags = 0
	if outcome.Done {
		t.summary, t.finished = t.env.Episode(), true
		t.played++
		if t.played == t.episodes {
			t.running = false
			t.step.Flags = Last | Terminal
		} else {
			if err := t.startEpisode(); err != nil {
				return nil, err
			}
			t.step.Flags = EpisodeStart
		}
	}
	return t.observe(outcome), nil
}

func (t *Trial) begin() (*Timestep, error) {
	t.boundary = t.pcg
	t.begun++
	t.played = 0
	t.task = t.tasks.Draw(t.rng)
	if err := t.startEpisode(); err != nil {
		return nil, err
	}
	t.running = true
	t.step.Flags = First | EpisodeStart
	return t.observe(Outcome{}), nil
}

func (t *Trial) startEpisode() error {
	seed := t.rng.Uint64()
	if t.seeds != nil {
		seed = t.seeds[t.played]
	}
	if err := t.env.Reset(t.task, seed); err != nil {
		t.running = false
		return fmt.Errorf("env: starting an episode of %s: %w", t.task.Name(), err)
	}
	return nil
}

func (t *Trial) observe(o Outcome) *Timestep {
	n := t.spec.Obs - Extra
	t.env.Observe(t.step.Obs[:n], t.step.Mask)
	t.step.Reward = float32(o.Reward)
	if t.Blind {
		return &t.step
	}
	t.step.Obs[n] = float32(o.Signal)
	t.step.Obs[n+1] = 0
	if t.step.Flags&EpisodeStart != 0 {
		t.step.Obs[n+1] = 1
	}
	return &t.step
}

// Finished returns the summary of the episode that the last Next ended, if it
// ended one.
func (t *Trial) Finished() (Summary, bool) { return t.summary, t.finished }

// Task is the current trial's, nil before the first.
func (t *Trial) Task() Task { return t.task }

// stateVersion is the first byte of State.
const stateVersion = 1

// State returns what Restore needs to go on from a trial's boundary: the number
// of trials and the random stream. In the middle of a trial it is the state at
// that trial's beginning, which then is played again from its first step.
func (t *Trial) State() []byte {
	begun, pcg := t.begun, t.pcg
	if t.running {
		begun, pcg = t.begun-1, t.boundary
	}
	b := binary.LittleEndian.AppendUint64([]byte{stateVersion}, begun)
	b, err := pcg.AppendBinary(b)
	if err != nil {
		panic(err) // a PCG has no state that cannot be written
	}
	return b
}

// ErrState is wrapped by Restore's errors.
var ErrState = errors.New("env: invalid trial state")

// Restore continues from a State of a Trial with equal arguments: the next call
// of Next begins a trial.
func (t *Trial) Restore(state []byte) error {
	if len(state) < 9 || state[0] != stateVersion {
		return fmt.Errorf("%w: %d bytes, version %v", ErrState, len(state), state[:min(1, len(state))])
	}
	var pcg rand.PCG
	if err := pcg.UnmarshalBinary(state[9:]); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	t.pcg, t.boundary = pcg, pcg
	t.begun = binary.LittleEndian.Uint64(state[1:])
	t.running, t.finished = false, false
	return nil
}
