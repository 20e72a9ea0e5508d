package experiment

import (
	"context"
	"fmt"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// WorldModel is an agent whose predictions can be measured.
type WorldModel interface {
	// Losses are the model's on a batch, by name, without learning from it, and the recurrent context before the steps
	// that the batch's Refs name, one row after another.
	Losses(ctx context.Context, b *protocol.Batch) (losses map[string]float64, rows []float32, err error)
}

// heldBackSteps is the length of each held-back sequence, at least: two thirds of an evaluation episode. Over 32
// sequences the losses then are means of more than 16,000 steps.
const heldBackSteps = 640

// heldBackSeed is that of the held-back sequences' tasks, jobs and random actions; actors draw theirs from hashes.
const heldBackSeed = 0x68656c64

// HeldBack are sequences of steps that a world model is measured on. Tasks, jobs and actions follow from fixed seeds
// alone, so that every checkpoint of every run meets the same: half of the sequences are played by LEFT, which shows
// what good policies see, and half at random, which shows what they avoid.
type HeldBack struct {
	size, length, steps int
	spec                env.Spec
	obs                 []float32 // [size,steps,spec.Obs]
	action              []uint16
	reward              []float32
	flags               []uint8
	mask                []bool // [size,steps,spec.Actions]
}

// NewHeldBack plays trials of so many episodes for as many sequences as a batch of the world model has, in pieces of
// its length.
func NewHeldBack(ctx context.Context, cfg loadbalance.Config, tasks loadbalance.Tasks, episodes int, blind bool, size, length int) (*HeldBack, error) {
	tasks.Jobs = cfg.Jobs
	pieces := (heldBackSteps + length - 2) / (length - 1)
	h := &HeldBack{size: size, length: length, steps: pieces*(length-1) + 1} // pieces share a step
	for i := range size {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rule := "left"
		if i%2 == 1 {
			rule = "random"
		}
		if err := h.play(rule, cfg, &tasks, episodes, blind, heldBackSeed+uint64(i)); err != nil {
			return nil, fmt.Errorf("held-back sequence %d: %w", i, err)
		}
	}
	return h, nil
}

// play appends a sequence.
func (h *HeldBack) play(rule string, cfg loadbalance.Config, tasks *loadbalance.Tasks, episodes int, blind bool, seed uint64) error {
	e, err := loadbalance.New(cfg)
	if err != nil {
		return err
	}
	p, err := loadbalance.NewPolicy(rule, loadbalance.PolicyOptions{})
	if err != nil {
		return err
	}
	trial, err := env.NewTrial(e, tasks, episodes, seed)
	if err != nil {
		return err
	}
	trial.Blind = blind
	h.spec = trial.Spec()
	action := 0
	for t := range h.steps {
		step, err := trial.Next(action)
		if err != nil {
			return err
		}
		if step.Flags&env.EpisodeStart != 0 {
			p.Reset(seed<<16 + uint64(t))
		}
		action = 0
		if step.Flags&env.Last == 0 {
			action = p.Choose(e.Sim())
		}
		h.obs = append(h.obs, step.Obs...)
		h.mask = append(h.mask, step.Mask...)
		h.action = append(h.action, uint16(action))
		h.reward = append(h.reward, step.Reward)
		h.flags = append(h.flags, uint8(step.Flags))
	}
	return nil
}

// Losses are the world model's means over all sequences, along which its own recurrent context is carried.
// contextLen is the width of that context.
func (h *HeldBack) Losses(ctx context.Context, m WorldModel, contextLen int) (map[string]float64, error) {
	var b protocol.Batch
	b.Resize(h.size, h.length, h.spec.Obs, h.spec.Actions, contextLen)
	clear(b.Context) // every sequence begins with a trial
	clear(b.ParamVersion)
	for i := range h.size {
		b.Refs = append(b.Refs, protocol.Ref{Sequence: uint32(i), Step: uint32(h.length - 1)})
	}
	means := map[string]float64{}
	stride := h.length - 1
	pieces := (h.steps - 1) / stride
	for k := range pieces {
		for i := range h.size {
			from, to := i*h.steps+k*stride, i*h.length
			copy(b.Obs[to*h.spec.Obs:(to+h.length)*h.spec.Obs], h.obs[from*h.spec.Obs:])
			copy(b.Mask[to*h.spec.Actions:(to+h.length)*h.spec.Actions], h.mask[from*h.spec.Actions:])
			copy(b.Action[to:to+h.length], h.action[from:])
			copy(b.Reward[to:to+h.length], h.reward[from:])
			copy(b.Flags[to:to+h.length], h.flags[from:])
		}
		losses, rows, err := m.Losses(ctx, &b)
		if err != nil {
			return nil, err
		}
		if len(rows) != len(b.Context) {
			return nil, fmt.Errorf("world model: %d values of context, want %d", len(rows), len(b.Context))
		}
		copy(b.Context, rows)
		for name, value := range losses {
			means[name] += value / float64(pieces)
		}
	}
	return means, nil
}
