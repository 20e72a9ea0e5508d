package main

import (
	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/learner/a2c"
	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// This file is the only one that knows which learning algorithms there are.

// agent is a learning algorithm in training.
type agent interface {
	learner.Algorithm
	Close() error
}

func newAgent(cfg protocol.Config, w *world) (agent, error) {
	if onPolicy(cfg) {
		a, err := a2c.New(a2c.ConfigOf(cfg, w.spec.Obs, w.spec.Actions), cfg.Seed)
		if err != nil {
			return nil, err
		}
		return a, nil
	}
	a, err := dreamer.New(dreamer.ConfigOf(cfg, w.spec.Obs, w.spec.Actions), cfg.Seed)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// policy is the acting half of an algorithm.
type policy interface {
	actor.Policy
	Probs() []float32 // of all actions in the last Act, rows × actions
}

func newPolicy(cfg protocol.Config, w *world, rows int, seed uint64, greedy bool) (policy, error) {
	if onPolicy(cfg) {
		p, err := model.NewDirect(a2c.ConfigOf(cfg, w.spec.Obs, w.spec.Actions).Model, rows, seed)
		if err != nil {
			return nil, err
		}
		p.Greedy = greedy
		return p, nil
	}
	p, err := model.NewPolicy(worldModel(cfg, w), rows, seed)
	if err != nil {
		return nil, err
	}
	p.Greedy = greedy
	return p, nil
}

// batchShape is that of the batches which the algorithm trains on.
func batchShape(cfg protocol.Config, w *world) protocol.BatchShape {
	shape := protocol.BatchShape{
		Size: cfg.Learner.BatchSize, Length: cfg.Learner.BatchLength, ObsLen: w.spec.Obs, Actions: w.spec.Actions,
	}
	if onPolicy(cfg) {
		shape.ContextLen = a2c.ConfigOf(cfg, w.spec.Obs, w.spec.Actions).Model.ContextLen()
	} else {
		shape.ContextLen = worldModel(cfg, w).ContextLen()
	}
	return shape
}

// worldModel is the shape of the world model and its policy, where the algorithm has one.
func worldModel(cfg protocol.Config, w *world) model.Config {
	return dreamer.ConfigOf(cfg, w.spec.Obs, w.spec.Actions).Model
}

// onPolicy says whether the algorithm trains on what the parameters published last collect, without
// a replay.
func onPolicy(cfg protocol.Config) bool { return cfg.Learner.Algorithm == protocol.A2C }

// policyName is the learned policy's in reports: with its most probable actions, or with drawn ones.
func policyName(algorithm string, greedy bool) string {
	if greedy {
		return algorithm + "_greedy"
	}
	return algorithm + "_sampled"
}

// algorithms are the values of learner.algorithm.
var algorithms = []string{protocol.Dreamer, protocol.A2C}
