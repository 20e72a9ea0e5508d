package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dreamfleet/dreamfleet/learner"
)

// In lockstep acting and learning alternate in a fixed order on the same bus, replay and learner as
// always: train while the replay owes batches, then let every actor fill one chunk in each of its
// environments and wait until the replay has them. A checkpoint holds all roles, so that a run
// that was killed continues from it as if nothing had happened.

// stallTimeout is how long a round of chunks may take to reach the replay.
const stallTimeout = time.Minute

func (t *training) lockstep(ctx context.Context, stop context.CancelCauseFunc) error {
	if err := t.loop.Start(ctx); err != nil {
		return err
	}
	batch := float64(t.cfg.Learner.BatchSize * t.cfg.Learner.BatchLength)
	steps := uint64(t.cfg.Actor.Count * t.cfg.Actor.Envs * t.cfg.Actor.ChunkLength)
	// A round that was begun is finished: between rounds the state can be saved.
	ongoing := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		for ctx.Err() == nil && t.store.Stats().Balance >= batch {
			if err := t.loop.Step(ongoing); err != nil {
				return err
			}
		}
		if limit := t.cfg.Budget.Steps; limit > 0 && t.store.Stats().Inserted >= uint64(limit) {
			stop(errSteps{limit})
		}
		if ctx.Err() != nil {
			break
		}
		if err := t.round(ongoing, t.store.Stats().Inserted+steps); err != nil {
			return err
		}
	}
	return t.loop.Finish()
}

// round has every actor complete a chunk in each environment and waits until the replay has
// inserted them.
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
	for t.store.Stats().Inserted < inserted {
		select {
		case <-t.watch.arrived:
		case <-ctx.Done():
			return fmt.Errorf("lockstep: the replay has %d steps after %v, want %d: %w",
				t.store.Stats().Inserted, stallTimeout, inserted, ctx.Err())
		}
	}
	return nil
}

// lockstepParts are what a checkpoint holds beside the learner: the replay's place and the actors.
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
	}, {
		Name: "replay.state",
		Save: func(w io.Writer) error {
			dir, err := os.MkdirTemp(t.dir, ".replay-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := t.store.Save(dir); err != nil {
				return err
			}
			f, err := os.Open(filepath.Join(dir, "replay.state"))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		},
		// The replay was opened with it.
		Load: func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
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
