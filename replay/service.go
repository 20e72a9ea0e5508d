package replay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

// Bus is what the service needs of the bus; protocol.Bus has it.
type Bus interface {
	ConsumeChunks(ctx context.Context, handler func(*protocol.ChunkMsg)) error
	PublishFlow(protocol.Flow) error
	FollowShards(ctx context.Context, handler func(shard int, f protocol.Flow)) error
	ServeSamples(ctx context.Context, s protocol.Sampler) error
	Heartbeat(ctx context.Context, fill func(*protocol.Status)) error
}

const (
	// flowInterval is how often actors are told whether to hold, beside at
	// every change: messages get lost, and actors run on after 5 s of silence.
	flowInterval = 250 * time.Millisecond

	// flowSpacing is how often they are told while chunks come, since each
	// message gives an actor leave for a few chunks only. Ten milliseconds let 64
	// environments with chunks of 64 steps make 800 000 steps a second, several
	// times what they can, and are 100 small messages a second to each actor.
	flowSpacing = 10 * time.Millisecond

	// retryDelay spaces attempts at a chunk that could not be written, on a
	// full disk for example.
	retryDelay = time.Second

	// maxPending is the number of chunks awaiting one sync: as many as the bus
	// has out unacknowledged, so that one sync covers whatever has come.
	maxPending = 256
)

// Service connects a Store to the bus.
type Service struct {
	Store *Store
	Bus   Bus
	Log   hclog.Logger

	// Inserted, where not nil, sees every chunk newly stored: its episodes and
	// its staleness are for the metrics. It must not keep the chunk.
	Inserted func(*protocol.Chunk)

	// Shard is which of Shards this replay is, from 0, where a run is divided.
	Shard, Shards int

	// SaveEvery, where above 0, has the state saved into Config.State so often
	// and at the end. It is for a replay apart from its learner, whose
	// checkpoints otherwise include Save.
	SaveEvery time.Duration

	// Watchdog, where not nil, is told of the progress.
	Watchdog *watchdog.Watchdog

	taken atomic.Uint64 // chunks
}

// Run moves chunks from the bus to the disk, acknowledges them when they are
// safe there, tells actors when to hold and serves remote learners. It ends
// with nil when ctx does, or with the error after which it cannot go on.
func (s *Service) Run(ctx context.Context) error {
	pending := make(chan *protocol.ChunkMsg, maxPending)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(pending)
		loop := s.Watchdog.Loop("replay", "insert")
		defer loop.End()
		loop.Wait("chunks")
		return ended(ctx, s.Bus.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
			loop.Do("insert")
			s.take(ctx, m, pending)
			loop.Wait("chunks")
		}))
	})
	group.Go(func() error { return s.acknowledge(pending) })
	group.Go(func() error { return ended(ctx, s.Bus.ServeSamples(ctx, s.Store)) })
	group.Go(func() error { return ended(ctx, s.Bus.Heartbeat(ctx, s.Store.status())) })
	group.Go(func() error { s.direct(ctx); return nil })
	if s.Shards > 1 {
		group.Go(func() error { return ended(ctx, s.heedOthers(ctx)) })
	}
	if s.SaveEvery > 0 {
		group.Go(func() error { return s.save(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("replay service: %w", err)
	}
	return nil
}

// ended is err unless that is the end of ctx, which is no failure.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// take inserts a chunk and passes it on to be acknowledged.
func (s *Service) take(ctx context.Context, m *protocol.ChunkMsg, pending chan<- *protocol.ChunkMsg) {
	s.taken.Add(1)
	s.Store.Incoming(m.Pending * uint64(m.Chunk.Steps)) // chunks of a run have one length
	inserted, err := s.Store.insert(m.Chunk)            // decoding has validated it
	if inserted && s.Inserted != nil {
		s.Inserted(m.Chunk)
	}
	switch {
	case err == nil, errors.Is(err, ErrFailed), errors.Is(err, ErrClosed):
		// A duplicate is passed on too, for the first may not be safe yet; and
		// where the store has failed, so will the sync, which ends Run.
		m.Release()
		select {
		case pending <- m:
		case <-ctx.Done(): // it comes again, as a duplicate
		}
	case errors.Is(err, ErrShape):
		m.Reject(ctx, err)
	default:
		s.Log.Error("chunk could not be stored, it will come again", "chunk", m.Chunk.MessageID(), "error", err)
		s.settle(m.Nak(retryDelay))
	}
}

// acknowledge syncs and then acknowledges, as many chunks at a time as have
// come during the last sync, until pending is closed and empty.
func (s *Service) acknowledge(pending <-chan *protocol.ChunkMsg) error {
	loop := s.Watchdog.Loop("replay", "sync")
	defer loop.End()
	loop.Wait("chunks")
	batch := make([]*protocol.ChunkMsg, 0, maxPending)
	for first := range pending {
		loop.Do("sync")
		batch = append(batch[:0], first)
		for len(pending) > 0 && len(batch) < maxPending {
			batch = append(batch, <-pending)
		}
		if err := s.Store.Sync(); err != nil {
			return err
		}
		for _, m := range batch {
			s.settle(m.Ack())
		}
		loop.Wait("chunks")
	}
	return nil
}

// settle logs that a chunk's fate was not told: it comes again and is then
// dropped as a duplicate.
func (s *Service) settle(err error) {
	if err != nil {
		s.Log.Debug("answer about a chunk was not sent", "error", err)
	}
}

// direct tells the actors whether to hold, and says when they have long done
// so.
func (s *Service) direct(ctx context.Context) {
	ticker := time.NewTicker(flowSpacing)
	defer ticker.Stop()
	loop := s.Watchdog.Loop("replay", "direct")
	defer loop.End()
	var patience patience
	var taken uint64 // chunks, when the actors were last told
	for {
		loop.Do("flow")
		st := s.Store.Stats()
		hold, reason := s.Store.Hold()
		if err := s.Bus.PublishFlow(protocol.Flow{Hold: hold, Reason: reason, Inserts: st.Inserted, Samples: st.Sampled, Steps: uint64(st.Steps), Balance: st.Balance}); err != nil {
			s.Log.Debug("actors were not told whether to hold", "error", err)
		}
		if !hold {
			patience.over()
		} else if waited, say := patience.waiting(s.Store.cfg.Now(), s.Store.cfg.Patience); say {
			s.Log.Warn("actors wait", "since", waited, "for", reason)
		}
		loop.Wait("change")
		taken = s.await(ctx, ticker.C, taken)
		if ctx.Err() != nil {
			return
		}
	}
}

// heedOthers has the limiter go by all shards together. What one that is away has said
// last stays, since it comes back with that.
func (s *Service) heedOthers(ctx context.Context) error {
	said := make([]protocol.Flow, s.Shards)
	return s.Bus.FollowShards(ctx, func(shard int, f protocol.Flow) {
		if shard == s.Shard {
			return
		}
		said[shard] = f
		var inserted uint64
		balance := 0.0
		for _, other := range said {
			inserted += other.Inserts
			balance += other.Balance
		}
		s.Store.Others(inserted, balance)
	})
}

// await waits until the actors should be told again, and returns the number of
// chunks taken by then: the hold has changed, more chunks have come than so
// many, or flowInterval has passed.
func (s *Service) await(ctx context.Context, tick <-chan time.Time, taken uint64) uint64 {
	for range flowInterval / flowSpacing {
		select {
		case <-ctx.Done():
			return taken
		case <-s.Store.Changed():
			return s.taken.Load()
		case <-tick:
		}
		if n := s.taken.Load(); n != taken {
			return n
		}
	}
	// What was on its way and has not come for so long may never come.
	s.Store.Incoming(0)
	return taken
}

// save writes the state now and again, and once more at the end.
func (s *Service) save(ctx context.Context) error {
	ticker := time.NewTicker(s.SaveEvery)
	defer ticker.Stop()
	loop := s.Watchdog.Loop("replay", "save")
	defer loop.End()
	for {
		loop.Wait("interval")
		select {
		case <-ctx.Done():
			loop.Do("save")
			return s.Store.Save(s.Store.cfg.State)
		case <-ticker.C:
			loop.Do("save")
			if err := s.Store.Save(s.Store.cfg.State); err != nil {
				s.Log.Error("state of the replay was not saved", "error", err)
			}
		}
	}
}
