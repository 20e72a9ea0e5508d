package bench

import (
	"context"
	"time"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// envTarget is what the environment alone is to reach, in steps a second. Park's
// own makes 58 900 in Python on such a core.
const envTarget = 6e6

// inProportion assigns jobs to ten servers roughly as their rates are, so that
// queues stay short.
var inProportion = [16]int{0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 8, 9, 9}

func runEnv(ctx context.Context, o *Options, report func(Result)) error {
	const length = 200 * time.Millisecond
	target := func() (float64, error) { return envTarget, nil }
	for _, part := range []struct {
		name, config string
		steps        func() (func() error, error)
	}{
		{"env/simulator", "Park, 10 servers, loads into the caller's slice, 1 thread", simulator},
		{"env/trial", "the same as an RL² trial with scaled observations and masks, 1 thread", trial},
	} {
		steps, err := part.steps()
		if err != nil {
			return err
		}
		r, err := o.rounds(ctx, func() (float64, error) { return perSecond(length, stepsAtOnce, steps) }, target)
		if err != nil {
			return err
		}
		r.Name, r.Config, r.Unit, r.LimitKind = part.name, part.config, "steps/s", "target"
		report(r)
	}
	return nil
}

// stepsAtOnce keeps the clock out of the figure.
const stepsAtOnce = 10_000

// simulator makes a function that plays so many steps of Park's simulator alone.
func simulator() (func() error, error) {
	var s loadbalance.Sim
	rates := loadbalance.DefaultRates()
	src := loadbalance.NewFastSource(1, loadbalance.DefaultInterval, loadbalance.DefaultShape, loadbalance.DefaultScale)
	obs := make([]float64, len(rates)+1)
	if err := s.Reset(rates, 1000, src); err != nil {
		return nil, err
	}
	return func() error {
		for i := range stepsAtOnce {
			if s.Done() {
				if err := s.Reset(rates, 1000, src); err != nil {
					return err
				}
			}
			if _, _, _, err := s.Step(inProportion[i%len(inProportion)]); err != nil {
				return err
			}
			s.Observe(obs)
		}
		return nil
	}, nil
}

// trial makes a function that plays so many steps of a trial on Park.
func trial() (func() error, error) {
	e, err := loadbalance.New(loadbalance.DefaultConfig())
	if err != nil {
		return nil, err
	}
	t, err := env.NewTrial(e, env.Fixed(loadbalance.ParkTask()), 1, 1)
	if err != nil {
		return nil, err
	}
	return func() error {
		for i := range stepsAtOnce {
			if _, err := t.Next(inProportion[i%len(inProportion)]); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
