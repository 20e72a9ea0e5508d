package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/learner/a2c"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

// intake is where the steps of a run arrive, and the learner's batches come from: a replay in this
// process or elsewhere, or the collector of an on-policy algorithm.
type intake interface {
	learner.Source
	run(ctx context.Context) error // until ctx ends, which is no error
	ready() bool                   // a batch is due: in lockstep
	steps() uint64                 // environment steps that have arrived in the whole run
	held() int64                   // steps kept
	// measure adds metrics; exact leaves out what depends on files or on when this process began.
	measure(values map[string]float64, exact bool)
	publisher(p learner.Publisher) learner.Publisher // which has to see what is published
	parts() []learner.Part                           // of a checkpoint
	close() error
}

// replayHere is the replay of this process.
type replayHere struct {
	cfg     protocol.Config
	dir     string
	store   *replay.Store
	service replay.Service
}

func (r *replayHere) Sample(ctx context.Context, dst *protocol.Batch) error {
	return r.store.Sample(ctx, dst, r.cfg.Learner.BatchSize, r.cfg.Learner.BatchLength)
}

func (r *replayHere) Refresh(_ context.Context, rows *protocol.Refresh) error {
	_, err := r.store.Refresh(rows)
	return err
}

func (r *replayHere) run(ctx context.Context) error { return r.service.Run(ctx) }

func (r *replayHere) ready() bool {
	return r.store.Stats().Balance >= float64(r.cfg.Learner.BatchSize*r.cfg.Learner.BatchLength)
}

func (r *replayHere) steps() uint64 { return r.store.Stats().Inserted }
func (r *replayHere) held() int64   { return int64(r.store.Stats().Steps) }

func (r *replayHere) measure(values map[string]float64, exact bool) {
	s := r.store.Stats()
	values["replay/steps"] = float64(s.Steps)
	if !exact {
		values["replay/bytes_per_step"] = s.BytesPerStep
		values["replay/duplicates"] = float64(s.Duplicates)
		values["replay/refresh_missed"] = float64(s.RefreshMissed)
	}
}

func (r *replayHere) publisher(p learner.Publisher) learner.Publisher { return p }

// parts is the replay's place, in lockstep, where a checkpoint holds all roles.
func (r *replayHere) parts() []learner.Part {
	if !r.cfg.Lockstep {
		return nil
	}
	return []learner.Part{{
		Name: "replay.state",
		Save: func(w io.Writer) error {
			dir, err := os.MkdirTemp(r.dir, ".replay-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := r.store.Save(dir); err != nil {
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
}

func (r *replayHere) close() error { return r.store.Close() }

// replayElsewhere is a replay in another process. It tells with its flow messages what it has.
type replayElsewhere struct {
	*protocol.RemoteReplay
	capacity int64
	bus      *protocol.Bus
	flow     atomic.Pointer[protocol.Flow]
}

func (r *replayElsewhere) run(ctx context.Context) error {
	return ended(ctx, r.bus.FollowFlow(ctx, func(f protocol.Flow) { r.flow.Store(&f) }))
}

func (r *replayElsewhere) ready() bool { return false }

func (r *replayElsewhere) steps() uint64 {
	if f := r.flow.Load(); f != nil {
		return f.Inserts
	}
	return 0
}

func (r *replayElsewhere) held() int64 { return min(int64(r.steps()), r.capacity) }

func (r *replayElsewhere) measure(values map[string]float64, _ bool) {
	values["replay/steps"] = float64(r.held())
}

func (r *replayElsewhere) publisher(p learner.Publisher) learner.Publisher { return p }
func (r *replayElsewhere) parts() []learner.Part                           { return nil }
func (r *replayElsewhere) close() error                                    { return nil }

// rollouts is the collector of an on-policy algorithm, which is always in the learner's process.
type rollouts struct {
	*a2c.Collector
	bus a2c.Consumer
}

// newRollouts goes on from the run's newest checkpoint.
func newRollouts(cfg protocol.Config, w *world, dir string, bus a2c.Consumer, arrived func(*protocol.Chunk), log hclog.Logger) (*rollouts, error) {
	r := &rollouts{a2c.NewCollector(batchShape(cfg, w), arrived, log), bus}
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), log)
	if errors.Is(err, learner.ErrNoCheckpoint) {
		return r, nil
	}
	if err == nil {
		err = ckpt.Load(r.parts()...)
	}
	return r, err
}

func (r *rollouts) run(ctx context.Context) error { return r.Run(ctx, r.bus) }
func (r *rollouts) ready() bool                   { return r.Full() }
func (r *rollouts) steps() uint64                 { return r.Stats().Steps }
func (r *rollouts) held() int64                   { return 0 }

func (r *rollouts) measure(values map[string]float64, _ bool) {
	s := r.Stats()
	values["collector/stale"] = float64(s.Stale)
	values["collector/surplus"] = float64(s.Surplus)
	values["collector/partial"] = float64(s.Partial)
	values["collector/repeated"] = float64(s.Repeated)
}

func (r *rollouts) publisher(p learner.Publisher) learner.Publisher {
	return a2c.Publisher{Publisher: p, Collector: r.Collector}
}

func (r *rollouts) parts() []learner.Part {
	return []learner.Part{{Name: "collector.json", Save: r.Save, Load: r.Load}}
}

func (r *rollouts) close() error { return nil }
