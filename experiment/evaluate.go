package experiment

import (
	"errors"
	"fmt"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// Agent is a learned policy that acts in as many environments at once as there are seeds to evaluate it on. It resets
// the memory of a row flagged env.First.
type Agent interface {
	Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32)
}

// Evaluate plays one episode of the task for each seed, all at once, without learning. It returns each one's mean job
// completion time and the actions that were taken. Jobs are Park's own of that seed, unless the task has a workload.
func Evaluate(cfg loadbalance.Config, task *loadbalance.Task, agent Agent, seeds []uint64) (meanJCT []float64, actions [][]int, err error) {
	cfg.ParkJobs = true
	n := len(seeds)
	if n == 0 {
		return nil, nil, errors.New("evaluate: no seeds")
	}
	trials := make([]*env.Trial, n)
	steps := make([]*env.Timestep, n)
	for i, seed := range seeds {
		e, err := loadbalance.New(cfg)
		if err != nil {
			return nil, nil, fmt.Errorf("evaluate: %w", err)
		}
		if trials[i], err = env.NewTrialOf(e, task, []uint64{seed}); err != nil {
			return nil, nil, fmt.Errorf("evaluate: %w", err)
		}
		if steps[i], err = trials[i].Next(0); err != nil {
			return nil, nil, fmt.Errorf("evaluate seed %d: %w", seed, err)
		}
	}
	spec := trials[0].Spec()
	obs, mask := make([]float32, n*spec.Obs), make([]bool, n*spec.Actions)
	flags, action, logProb := make([]uint8, n), make([]int32, n), make([]float32, n)
	meanJCT, actions = make([]float64, n), make([][]int, n)

	for left := n; left > 0; {
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
				return nil, nil, fmt.Errorf("evaluate seed %d: %w", seeds[i], err)
			}
			actions[i] = append(actions[i], int(action[i]))
			if summary, ended := trial.Finished(); ended {
				meanJCT[i] = summary.MeanJCT
				left--
			}
		}
	}
	return meanJCT, actions, nil
}
