package protocol

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// shardedReplay draws batches from all shards of a run. A batch has as many sequences of
// each as fits the steps that it holds, so that every stored step is as likely as in one
// replay that holds them all. A shard that is away is left out: training goes on with
// what the others hold, and its actors' chunks wait in the stream.
type shardedReplay struct {
	bus   *Bus
	shape BatchShape
	parts []Batch // by shard, kept for their memory

	mu    sync.Mutex
	flows *flows
	away  []bool         // of which the log has told
	draw  func() float64 // evenly from [0, 1)
}

// slotBits of a reference are the shard's own; those above hold its number while the
// reference is with the learner. 67 million chunks of the shortest are a terabyte.
const slotBits = 26

func (b *Bus) shardedReplay(shape BatchShape) (*shardedReplay, error) {
	n := int(b.shards.Load())
	r := &shardedReplay{bus: b, shape: shape, parts: make([]Batch, n), flows: newFlows(n), away: make([]bool, n), draw: rand.Float64}
	follow := func(shard int, f Flow) {
		r.mu.Lock()
		r.flows.take(shard, f, time.Now())
		r.mu.Unlock()
	}
	// It ends with the connection.
	_, err := b.nc.Subscribe(flowSubject(b.cfg.Run)+".*", func(msg *nats.Msg) { b.shardFlow(msg, follow) })
	if err != nil {
		return nil, fmt.Errorf("follow the shards' flow: %w", b.cause(err))
	}
	return r, nil
}

// sample fills dst with sequences of all shards that are there.
func (r *shardedReplay) sample(ctx context.Context, dst *Batch) error {
	s := r.shape
	dst.Resize(s.Size, s.Length, s.ObsLen, s.Actions, s.ContextLen)
	for filled := 0; filled < s.Size; {
		counts := divide(s.Size-filled, r.weights(time.Now()), r.draw)
		got := make([]bool, len(counts))
		group, asking := errgroup.WithContext(ctx)
		for shard, n := range counts {
			if n > 0 {
				group.Go(func() (err error) { got[shard], err = r.part(asking, shard, n); return err })
			}
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("sample: %w", err)
		}
		before := filled
		for shard := range got {
			if got[shard] {
				dst.place(filled, &r.parts[shard], uint32(shard)<<slotBits)
				filled += r.parts[shard].Size
			}
		}
		if filled == before {
			if err := pause(ctx, retryWait); err != nil {
				return fmt.Errorf("sample: %w, while waiting for the replay's shards", err)
			}
		}
	}
	r.bus.counters.samples.Add(1)
	return nil
}

// part asks a shard for some sequences. It reports whether they have come: where they
// have not, the next division may ask another shard.
func (r *shardedReplay) part(ctx context.Context, shard, size int) (bool, error) {
	request, err := SampleRequest{Size: size, Length: r.shape.Length}.AppendTo(nil)
	if err != nil {
		return false, err
	}
	subject := r.bus.sharded("batch", shard, ".get")
	reply, again, err := r.bus.askAgain(ctx, subject, request)
	if again || err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if again {
			err = nil
		}
		return false, err
	}
	part, want := &r.parts[shard], r.shape
	want.Size = size
	err = DecodeBatch(part, reply, Limits{})
	if got := (BatchShape{part.Size, part.Length, part.ObsLen, part.Actions, part.ContextLen}); err == nil && got != want {
		err = fmt.Errorf("batch is %+v and %+v is wanted: shard %d of the replay has another configuration of the run", got, want, shard)
	}
	for _, ref := range part.Refs {
		if err == nil && ref.Slot>>slotBits != 0 {
			return false, fmt.Errorf("shard %d of the replay has more than %d chunks: raise replay.shards or actor.chunk_length", shard, 1<<slotBits)
		}
	}
	if errors.Is(err, ErrVersion) {
		return false, err
	}
	if err != nil {
		r.bus.refuse("batch", subject, nil, reply, err)
		return false, nil
	}
	return true, nil
}

// weights are the steps that each shard holds, 0 for one that is away, which the log is
// told once.
func (r *shardedReplay) weights(now time.Time) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := make([]uint64, len(r.away))
	for i := range w {
		here := r.flows.here(i, now)
		if here {
			w[i] = r.flows.said[i].Steps
		}
		known := !r.flows.heard[i].IsZero()
		switch {
		case known && !here && !r.away[i]:
			r.bus.log.Warn("a shard of the replay is away: training goes on with what the others hold", "shard", i, "shards", len(w), "silent_for", shardSilence)
		case here && r.away[i]:
			r.bus.log.Info("a shard of the replay is back", "shard", i)
		}
		r.away[i] = known && !here
	}
	return w
}

// divide parts n sequences in proportion to weights: whole shares at once, the rest by
// lot, so that every shard has its share on average. Without any weight nobody has any.
func divide(n int, weights []uint64, draw func() float64) []int {
	counts := make([]int, len(weights))
	sum := 0.0
	for _, w := range weights {
		sum += float64(w)
	}
	if sum == 0 {
		return counts
	}
	rest := make([]float64, len(weights))
	left, fractions := n, 0.0
	for i, w := range weights {
		share := float64(n) * float64(w) / sum
		counts[i] = int(share)
		rest[i] = share - float64(counts[i])
		fractions += rest[i]
		left -= counts[i]
	}
	// Systematic sampling: one draw, then equal steps, which takes each with a
	// probability of its fraction and none twice.
	at := draw()
	for i, passed := 0, 0.0; i < len(rest) && left > 0; i++ {
		passed += rest[i] * float64(left) / max(fractions, 1e-9)
		if passed > at {
			counts[i]++
			at++
		}
	}
	given := 0
	for _, c := range counts {
		given += c
	}
	for i := range counts { // what rounding has left over
		if given < n && weights[i] > 0 {
			counts[i] += n - given
			break
		}
	}
	return counts
}

// place copies the sequences of part into b from sequence at on, and its references with
// a mark in their slots.
func (b *Batch) place(at int, part *Batch, mark uint32) {
	steps := at * b.Length
	copy(b.Obs[steps*b.ObsLen:], part.Obs)
	copy(b.Action[steps:], part.Action)
	copy(b.Reward[steps:], part.Reward)
	copy(b.Flags[steps:], part.Flags)
	copy(b.Mask[steps*b.Actions:], part.Mask)
	copy(b.Context[at*b.ContextLen:], part.Context)
	copy(b.ParamVersion[at:], part.ParamVersion)
	for _, ref := range part.Refs {
		ref.Sequence += uint32(at)
		ref.Slot |= mark
		b.Refs = append(b.Refs, ref)
	}
}

// refresh sends rows back to the shards that they are of, and waits until all that are
// there have taken theirs. Those of one that is away are left: they are estimates that
// stay as old as they were.
func (r *shardedReplay) refresh(ctx context.Context, all *Refresh) error {
	parts := make([]Refresh, len(r.parts))
	width := all.contextLen()
	for i, ref := range all.Refs {
		shard := int(ref.Slot >> slotBits)
		if shard >= len(parts) {
			return fmt.Errorf("refresh: row %d is of shard %d, there are %d: %w", i, shard, len(parts), ErrCorrupt)
		}
		ref.Slot &= 1<<slotBits - 1
		parts[shard].Refs = append(parts[shard].Refs, ref)
		parts[shard].Context = append(parts[shard].Context, all.Context[i*width:(i+1)*width]...)
	}
	group, ctx := errgroup.WithContext(ctx)
	for shard := range parts {
		part := &parts[shard]
		if len(part.Refs) == 0 {
			continue
		}
		group.Go(func() error {
			data, err := part.AppendTo(nil)
			if err == nil {
				err = r.bus.fits("refresh", len(data))
			}
			if err != nil {
				return err
			}
			for {
				_, again, err := r.bus.askAgain(ctx, r.bus.sharded("batch", shard, ".refresh"), data)
				if !again {
					return err
				}
				r.mu.Lock()
				here := r.flows.here(shard, time.Now())
				r.mu.Unlock()
				if !here {
					return nil
				}
				if err := pause(ctx, retryWait); err != nil {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("refresh: %w", err)
	}
	return nil
}
