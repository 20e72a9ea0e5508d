package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/dreamfleet/dreamfleet/learner"
)

// In lockstep acting and learning alternate in a fixed order on the same bus, replay and learner as
// always: train while a batch is due, then let every actor fill one chunk in each of its environments
// and wait until they have arrived. A checkpoint holds all roles, so that a run
// that was killed continues from it as if nothing had happened.

// stallTimeout is how long a round of chunks may take to arrive.
const stallTimeout = time.Minute

func (t *training) lockstep(ctx context.Context, stop context.CancelCauseFunc) error {
	if err := t.loop.Start(ctx); err != nil {
		return err
	}
	steps := uint64(t.cfg.Actor.Count * t.cfg.Actor.Envs * t.cfg.Actor.ChunkLength)
	// A round that was begun is finished: between rounds the state can be saved.
	ongoing := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		for ctx.Err() == nil && t.intake.ready() {
			if err := t.loop.Step(ongoing); err != nil {
				return err
			}
		}
		if limit := t.cfg.Budget.Steps; limit > 0 && t.intake.steps() >= uint64(limit) {
			stop(errSteps{limit})
		}
		if ctx.Err() != nil {
			break
		}
		if err := t.round(ongoing, t.intake.steps()+steps); err != nil {
			return err
		}
	}
	return t.loop.Finish()
}

// round has every actor complete a chunk in each environment and waits until they have arrived.
func (t *training) round(ctx context.Context, inserted uint64) error {
	ctx, cancel := context.WithTimeout(ctx, stallTimeout)
	defer cancel()
	for _, a := range t.actors {
		for range t.cfg.Actor.ChunkLength {
			if err := a.Tick(); err != nil {
				return err
			}
		}
		if err := a.Flush(ctx); err != nil {
			return err
		}
	}
	for t.intake.steps() < inserted {
		select {
		case <-t.watch.arrived:
		case <-ctx.Done():
			return fmt.Errorf("lockstep: %d steps have arrived after %v, want %d: %w",
				t.intake.steps(), stallTimeout, inserted, ctx.Err())
		}
	}
	return nil
}

// lockstepParts are what a checkpoint holds beside the learner and the intake: the actors.
func (t *training) lockstepParts() []learner.Part {
	parts := []learner.Part{{
		Name: "episodes.json", // those ended since the last line of metrics
		Save: func(w io.Writer) error {
			t.watch.mu.Lock()
			defer t.watch.mu.Unlock()
			return json.NewEncoder(w).Encode(t.watch.ended)
		},
		Load: func(r io.Reader) error {
			t.watch.mu.Lock()
			defer t.watch.mu.Unlock()
			return json.NewDecoder(r).Decode(&t.watch.ended)
		},
	}}
	for i, a := range t.actors {
		parts = append(parts, learner.Part{
			Name: fmt.Sprintf("actor-%d.state", i),
			Save: func(w io.Writer) error {
				b, err := a.State()
				if err == nil {
					_, err = w.Write(b)
				}
				return err
			},
			Load: func(r io.Reader) error {
				b, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				return a.Restore(b)
			},
		})
	}
	return parts
}

// direct hands parameters to the actors of this process in place.
type direct struct{ t *training }

func (p direct) Publish(_ context.Context, version uint64, blob []byte) error {
	p.t.watch.published(version, blob)
	for _, a := range p.t.actors {
		a.SetParams(version, blob)
	}
	return nil
}
