package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

// replaySizes are a replay of the default configuration's steps and how it is used.
type replaySizes struct {
	window, restart int           // steps of the replay that is sampled, and of the one reopened
	batch, length   int           // sequences sampled at a time, and their steps
	pace            int           // steps inserted a second meanwhile
	memory          int           // bytes from anywhere in which the limit copies
	round           time.Duration // of sampling
}

func runReplay(ctx context.Context, o *Options, report func(Result)) error {
	cfg := protocol.DefaultConfig()
	return replaySizes{
		window: int(cfg.Replay.Capacity), restart: 5_000_000, batch: 16, length: 64,
		// What some ten environments step in a second with nothing to wait for.
		pace:   10_000,
		memory: 128 << 20, round: 300 * time.Millisecond,
	}.run(ctx, o, report)
}

func (z replaySizes) run(ctx context.Context, o *Options, report func(Result)) error {
	s, err := defaultSteps()
	if err != nil {
		return err
	}
	if err := o.inFolder("sample", func(dir string) error { return z.sample(ctx, o, s, dir, report) }); err != nil {
		return fmt.Errorf("sampling: %w", err)
	}
	if err := o.inFolder("restart", func(dir string) error { return z.reopen(ctx, o, s, dir, report) }); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	return nil
}

// open opens a replay that draws evenly from all it has, so that nothing it
// copies is likely to be in a cache, and that lets everything pass at once.
func (z replaySizes) open(dir string, capacity int) (*replay.Store, error) {
	return replay.Open(replay.Config{
		Dir: dir, Run: benchRun, Capacity: capacity, Mix: replay.Mix{Uniform: 1},
		Limiter: replay.LimiterConfig{Ratio: 1e6, MinSteps: 1, Budget: 1 << 30},
		Batch:   z.batch, Length: z.length, Seed: 1,
	}, hclog.NewNullLogger())
}

// insert stores so many steps.
func insert(ctx context.Context, store *replay.Store, from *chunks, steps int) error {
	for n := 0; n < steps; n += from.chunk.Steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := store.Insert(from.next()); err != nil {
			return err
		}
	}
	return nil
}

// sample compares sampling, while chunks are inserted, with copying.
func (z replaySizes) sample(ctx context.Context, o *Options, s steps, dir string, report func(Result)) (err error) {
	store, err := z.open(dir, z.window)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	from := s.newChunks("a", s.chunk)
	// A tenth more than fits, so that old steps go from the start.
	if err := insert(ctx, store, from, z.window+z.window/10); err != nil {
		return err
	}
	if err := store.Sync(); err != nil {
		return err
	}

	var inserted atomic.Int64
	start := time.Now()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return z.insertSteadily(ctx, store, from, &inserted) })
	group.Go(func() error {
		defer stop()
		r, err := z.compareCopying(ctx, o, store)
		if err != nil {
			return err
		}
		report(r)
		pace := float64(inserted.Load()) / time.Since(start).Seconds()
		report(Result{
			Name: "replay/insert", Config: "steps inserted meanwhile", Value: pace, Unit: "steps/s",
			Limit: float64(z.pace), LimitKind: "target", Ratio: pace / float64(z.pace),
		})
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	bytes := store.BytesPerStep()
	report(Result{
		Name: "replay/disk", Config: fmt.Sprintf("%d steps in chunks of %d", z.window, s.chunk), Value: bytes, Unit: "B/step",
		Limit: s.rawBytes(), LimitKind: "raw_arrays", Ratio: bytes / s.rawBytes(),
	})
	return nil
}

// insertSteadily inserts at the pace, as far as it can, and syncs as the
// replay's service does before it acknowledges, until ctx ends.
func (z replaySizes) insertSteadily(ctx context.Context, store *replay.Store, from *chunks, inserted *atomic.Int64) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			due := int(float64(z.pace) * now.Sub(last).Seconds() / float64(from.chunk.Steps))
			last = last.Add(time.Duration(float64(due*from.chunk.Steps) / float64(z.pace) * float64(time.Second)))
			for range due {
				if _, err := store.Insert(from.next()); err != nil {
					return err
				}
				inserted.Add(int64(from.chunk.Steps))
			}
			if err := store.Sync(); err != nil {
				return err
			}
		}
	}
}

// compareCopying samples and copies in turns.
func (z replaySizes) compareCopying(ctx context.Context, o *Options, store *replay.Store) (Result, error) {
	var batch protocol.Batch
	if err := store.Sample(ctx, &batch, z.batch, z.length); err != nil {
		return Result{}, err
	}
	bytes := batchBytes(&batch)
	copies := newCopier(z.memory, bytes, z.batch)
	r, err := o.rounds(ctx, func() (float64, error) {
		return perSecond(z.round, bytes, func() error { return store.Sample(ctx, &batch, z.batch, z.length) })
	}, func() (float64, error) {
		return perSecond(z.round, bytes, copies.copy)
	})
	if err != nil {
		return Result{}, err
	}
	r.Value, r.Limit = r.Value/1e6, r.Limit/1e6
	r.Name, r.Unit, r.LimitKind = "replay/sample", "MB/s", "memory_copy"
	r.Config = fmt.Sprintf("%dx%d, %d bytes, of %d steps, %d inserted a second", z.batch, z.length, bytes, z.window, z.pace)
	return r, nil
}

func batchBytes(b *protocol.Batch) int {
	const ref = 20 // bytes of a protocol.Ref
	return 4*len(b.Obs) + 2*len(b.Action) + 4*len(b.Reward) + len(b.Flags) + len(b.Mask) +
		4*len(b.Context) + 8*len(b.ParamVersion) + ref*len(b.Refs)
}

// copier copies pieces from random places of a large memory into one.
type copier struct {
	dst, src []byte
	piece    int
	rng      *rand.Rand
}

func newCopier(memory, bytes, pieces int) *copier {
	c := &copier{dst: make([]byte, bytes), src: make([]byte, memory), piece: bytes / pieces, rng: rand.New(rand.NewPCG(1, 1))}
	for i := range c.src { // memory that was never written is one page of zeros
		c.src[i] = byte(i)
	}
	return c
}

func (c *copier) copy() error {
	for to := c.dst; len(to) >= c.piece; to = to[c.piece:] {
		copy(to[:c.piece], c.src[c.rng.IntN(len(c.src)-c.piece):])
	}
	return nil
}

// restartLimit is how many seconds a restart may take.
const restartLimit = 5

// reopen measures how long it takes until a full replay can be used again.
func (z replaySizes) reopen(ctx context.Context, o *Options, s steps, dir string, report func(Result)) error {
	store, err := z.open(dir, z.restart)
	if err != nil {
		return err
	}
	err = insert(ctx, store, s.newChunks("a", s.chunk), z.restart)
	size := store.Stats().Bytes
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	r, err := o.rounds(ctx, func() (float64, error) {
		start := time.Now()
		store, err := z.open(dir, z.restart)
		if err != nil {
			return 0, err
		}
		took := time.Since(start).Seconds()
		if n := store.Stats().Steps; n < z.restart {
			err = fmt.Errorf("%d of %d steps are there", n, z.restart)
		}
		return took, errors.Join(err, store.Close())
	}, func() (float64, error) { return restartLimit, nil })
	if err != nil {
		return err
	}
	r.Name, r.Unit, r.LimitKind = "replay/restart", "s", "target"
	r.Config = fmt.Sprintf("%d steps, %d MB", z.restart, size/1e6)
	report(r)
	return nil
}
