package experiment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// Agent is a learned policy that acts in as many environments at once as there are seeds to evaluate it on. It resets
// the memory of a row flagged env.First.
type Agent interface {
	Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32)
}

// Trials are what policies are compared on: for each seed a task and the jobs of its episodes, the same for all.
type Trials struct {
	// Blind shows agents none of RL²'s inputs, as env.Trial has it.
	Blind bool

	cfg   loadbalance.Config
	seeds []uint64
	drawn []*loadbalance.Task // one a seed
	tasks []*loadbalance.Task // the same with their jobs recorded
	each  [][]uint64          // seeds of each trial's episodes
}

// NewTrials draws for each seed a task, from the seed alone, and records the jobs of so many episodes of it. Jobs are
// Park's own unless the tasks have a workload, those of the first episode being of the seed itself. Of a trace that is
// cut by date, the episodes of a trial follow one another.
func NewTrials(ctx context.Context, cfg loadbalance.Config, tasks loadbalance.Tasks, episodes int, seeds []uint64) (*Trials, error) {
	if len(seeds) == 0 || episodes < 1 {
		return nil, errors.New("evaluate: no seeds or no episodes")
	}
	tasks.Jobs = cfg.Jobs
	t := &Trials{cfg: cfg, seeds: seeds}
	for _, seed := range seeds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		drawn := tasks.Draw(rand.New(rand.NewPCG(seed, 0x7461736b))).(*loadbalance.Task)
		task, jobs := *drawn, recorded{}
		task.Workload, task.IntervalDrift, task.SizeDrift = jobs, 0, 0
		var each []uint64
		for e := range episodes {
			s := seed + uint64(e)*0x9e3779b97f4a7c15
			if _, dated := drawn.Workload.(loadbalance.Dated); dated {
				s = seed*uint64(episodes) + uint64(e)
			} else if e > 0 && drawn.Workload == nil {
				s = uint64(uint32(s)) // Park's seeds have 32 bits
			}
			var err error
			if jobs[s], err = drawn.Jobs(s, cfg.Jobs); err != nil {
				return nil, fmt.Errorf("jobs of seed %d: %w", seed, err)
			}
			each = append(each, s)
		}
		t.drawn, t.tasks, t.each = append(t.drawn, drawn), append(t.tasks, &task), append(t.each, each)
	}
	return t, nil
}

// recorded are jobs by the seed of their episode.
type recorded map[uint64]loadbalance.JobList

func (r recorded) Episode(seed uint64, _ int) (loadbalance.Source, error) {
	jobs := r[seed]
	return &jobs, nil
}

// scores makes an empty table: one Scores for each episode of the trials.
func (t *Trials) scores(policy string) []Scores {
	scores := make([]Scores, len(t.each[0]))
	for e := range scores {
		scores[e] = Scores{Policy: policy, Seeds: t.seeds, MeanJCT: make([]float64, len(t.seeds))}
	}
	return scores
}

// Misled reports whether some server's rate differs from rates in some trial, so that who believes in them is wrong.
func (t *Trials) Misled(rates []float64) bool {
	return slices.ContainsFunc(t.drawn, func(task *loadbalance.Task) bool {
		for i, r := range task.Rates {
			if r > 0 && r != rates[i] {
				return true
			}
		}
		return false
	})
}

// Score has a heuristic play all episodes. It returns one Scores for each episode of the trials.
func (t *Trials) Score(ctx context.Context, p loadbalance.Policy) ([]Scores, error) {
	e, err := loadbalance.New(t.cfg)
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	scores := t.scores(p.Name())
	for i, task := range t.tasks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for k, seed := range t.each[i] {
			if err := e.Reset(task, seed); err != nil {
				return nil, fmt.Errorf("policy %s, seed %d: %w", p.Name(), t.seeds[i], err)
			}
			p.Reset(seed)
			for done := false; !done; {
				outcome, err := e.Step(p.Choose(e.Sim()))
				if err != nil {
					return nil, fmt.Errorf("policy %s, seed %d: %w", p.Name(), t.seeds[i], err)
				}
				done = outcome.Done
			}
			scores[k].MeanJCT[i] = e.Episode().MeanJCT
		}
	}
	return scores, nil
}

// Play has an agent play all trials at once, without learning. It returns one Scores for each episode of the trials,
// and the actions taken in each trial.
func (t *Trials) Play(ctx context.Context, policy string, agent Agent) (scores []Scores, actions [][]int, err error) {
	n := len(t.seeds)
	trials, steps, played := make([]*env.Trial, n), make([]*env.Timestep, n), make([]int, n)
	for i, seed := range t.seeds {
		e, err := loadbalance.New(t.cfg)
		if err != nil {
			return nil, nil, fmt.Errorf("evaluate: %w", err)
		}
		if trials[i], err = env.NewTrialOf(e, t.tasks[i], t.each[i]); err != nil {
			return nil, nil, fmt.Errorf("evaluate: %w", err)
		}
		trials[i].Blind = t.Blind
		if steps[i], err = trials[i].Next(0); err != nil {
			return nil, nil, fmt.Errorf("evaluate seed %d: %w", seed, err)
		}
	}
	spec := trials[0].Spec()
	obs, mask := make([]float32, n*spec.Obs), make([]bool, n*spec.Actions)
	flags, action, logProb := make([]uint8, n), make([]int32, n), make([]float32, n)
	scores, actions = t.scores(policy), make([][]int, n)

	for left := n; left > 0; {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		for i, s := range steps {
			copy(obs[i*spec.Obs:], s.Obs)
			copy(mask[i*spec.Actions:], s.Mask)
			flags[i] = uint8(s.Flags)
		}
		agent.Act(obs, flags, mask, action, logProb)
		for i, trial := range trials {
			if steps[i].Flags&env.Last != 0 {
				continue
			}
			if steps[i], err = trial.Next(int(action[i])); err != nil {
				return nil, nil, fmt.Errorf("evaluate seed %d: %w", t.seeds[i], err)
			}
			actions[i] = append(actions[i], int(action[i]))
			if summary, ended := trial.Finished(); ended {
				scores[played[i]].MeanJCT[i] = summary.MeanJCT
				played[i]++
			}
			if steps[i].Flags&env.Last != 0 {
				left--
			}
		}
	}
	return scores, actions, nil
}

// Last replays the last episode of the first seed's trial under the actions that were taken in the trial. see is shown
// each step of it before its action is taken: the environment, the action, and the step's place in the trial.
func (t *Trials) Last(actions []int, see func(e *loadbalance.Env, action, step int)) error {
	e, err := loadbalance.New(t.cfg)
	if err != nil {
		return fmt.Errorf("replay an episode: %w", err)
	}
	last := t.each[0][len(t.each[0])-1]
	if err := e.Reset(t.tasks[0], last); err != nil {
		return fmt.Errorf("replay an episode: %w", err)
	}
	from := len(actions) - len(t.tasks[0].Workload.(recorded)[last])
	for i, action := range actions[from:] {
		see(e, action, from+i)
		if _, err := e.Step(action); err != nil {
			return fmt.Errorf("replay an episode: %w", err)
		}
	}
	return nil
}

// Task is the name of the first seed's task.
func (t *Trials) Task() string { return t.drawn[0].Name() }

// Recording is the last episode of the first seed's trial, of which the actions are given, to be written down.
func (t *Trials) Recording(policy string, actions []int) (*loadbalance.Recording, error) {
	task, seed := t.drawn[0], t.each[0][len(t.each[0])-1]
	if len(task.Changes) > 0 {
		return nil, errors.New("an episode in which servers slow, fail or join cannot be recorded: the format has one rate for each server")
	}
	jobs := t.tasks[0].Workload.(recorded)[seed]
	r := &loadbalance.Recording{Policy: policy, Rates: task.Rates, Actions: actions[len(actions)-len(jobs):]}
	if drifts := t.cfg.Jobs > 1 && (task.IntervalDrift > 0 || task.SizeDrift > 0); task.Workload != nil || drifts {
		r.Jobs = jobs
	} else {
		r.Seed = uint32(seed)
		r.Interval, r.Shape, r.Scale = task.Interval, task.Shape, task.Scale
	}
	return r, nil
}
