package a2c

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// patience is how long Sample waits before it says so.
const patience = time.Minute

// Consumer is the bus as the collector sees it. *protocol.Bus is one.
type Consumer interface {
	ConsumeChunks(ctx context.Context, handler func(*protocol.ChunkMsg)) error
}

// Collected counts what a Collector has taken since the run began.
type Collected struct {
	Steps    uint64 // environment steps of all chunks, those of no use included
	Stale    uint64 // chunks acted with other parameters than those published last
	Surplus  uint64 // chunks of those parameters beyond a batch
	Partial  uint64 // chunks of less than a whole rollout, as an actor that ends leaves
	Repeated uint64 // chunks that came again
	Version  uint64 // of the parameters published last
}

// Collector gathers on-policy batches from the bus. It is a learner's Source,
// whose batches hold chunks that were acted, from beginning to end, with the
// parameters published last; Publish tells it the version, before they go out.
//
// All chunks are acknowledged: one that is of no use now never will be. Its
// methods may be called from any goroutine; Sample and Publish are a loop's that
// works in place.
type Collector struct {
	shape protocol.BatchShape
	log   hclog.Logger

	mu      sync.Mutex
	batch   protocol.Batch // being filled
	filled  int            // rollouts in it
	seen    map[streamChunk]struct{}
	open    bool // chunks are taken
	counts  Collected
	changed chan struct{} // a token when the batch is full
	arrived func(*protocol.Chunk)
}

// streamChunk names a chunk of the run.
type streamChunk struct {
	actor string
	env   uint32
	seq   uint64
}

// NewCollector makes a collector of batches of a shape, Length being the steps
// of a chunk. arrived, where not nil, sees every chunk that has not come before
// and must not keep it.
func NewCollector(shape protocol.BatchShape, arrived func(*protocol.Chunk), log hclog.Logger) *Collector {
	c := &Collector{shape: shape, log: log, arrived: arrived, seen: map[streamChunk]struct{}{}, changed: make(chan struct{}, 1)}
	c.batch.Resize(shape.Size, shape.Length, shape.ObsLen, shape.Actions, shape.ContextLen)
	return c
}

// Run takes chunks off the bus until ctx ends, which is no error.
func (c *Collector) Run(ctx context.Context, bus Consumer) error {
	err := bus.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
		if err := c.take(m.Chunk); err != nil {
			m.Reject(ctx, err)
			return
		}
		m.Release()
		if err := m.Ack(); err != nil {
			c.log.Debug("a chunk was not acknowledged, it comes again", "error", err)
		}
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("collector: %w", err)
	}
	return nil
}

// ErrShape is wrapped by the reason for rejecting a chunk of another shape than
// the run's.
var ErrShape = fmt.Errorf("chunk has another shape than the run: %w", protocol.ErrCorrupt)

// take counts a chunk and puts it into the batch if it belongs there.
func (c *Collector) take(k *protocol.Chunk) error {
	s := c.shape
	if k.ObsLen != s.ObsLen || k.Actions != s.Actions || k.ContextLen != s.ContextLen {
		return fmt.Errorf("%w: %d observations, %d actions and %d context values, want %d, %d and %d",
			ErrShape, k.ObsLen, k.Actions, k.ContextLen, s.ObsLen, s.Actions, s.ContextLen)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := streamChunk{k.Actor, k.Env, k.Seq}
	if _, again := c.seen[id]; again {
		c.counts.Repeated++
		return nil
	}
	c.seen[id] = struct{}{}
	c.counts.Steps += uint64(k.Steps)
	if c.arrived != nil {
		c.arrived(k)
	}
	switch {
	case k.ParamVersion != c.counts.Version:
		c.counts.Stale++
	case k.Steps != s.Length:
		c.counts.Partial++
	case !c.open || c.filled == s.Size:
		c.counts.Surplus++
	default:
		c.batch.SetSequence(c.filled, k)
		if c.filled++; c.filled == s.Size {
			c.signal()
		}
	}
	return nil
}

func (c *Collector) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Published has the collector take chunks of this version from now on, and no
// others.
func (c *Collector) Published(version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Version, c.filled, c.open = version, 0, true
	clear(c.seen)
}

// Sample waits for a full batch of the version published last. It is asked for
// once for each version, or again where an update came to nothing, when another
// batch of the same version is gathered.
func (c *Collector) Sample(ctx context.Context, dst *protocol.Batch) error {
	ticker := time.NewTicker(patience)
	defer ticker.Stop()
	for begun := time.Now(); ; {
		if c.hand(dst) {
			return nil
		}
		select {
		case <-c.changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			c.mu.Lock()
			have, version := c.filled, c.counts.Version
			c.mu.Unlock()
			c.log.Warn("waiting for rollouts: are there actors, with as many environments as a batch has sequences?",
				"since", time.Since(begun).Round(time.Second), "have", have, "want", c.shape.Size, "version", version)
		}
	}
}

// hand swaps a full batch for dst.
func (c *Collector) hand(dst *protocol.Batch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = c.filled < c.shape.Size
	if c.open {
		return false
	}
	*dst, c.batch = c.batch, *dst
	s := c.shape
	c.batch.Resize(s.Size, s.Length, s.ObsLen, s.Actions, s.ContextLen)
	c.filled = 0
	return true
}

// Refresh does nothing: what has been trained on is not used again.
func (c *Collector) Refresh(context.Context, *protocol.Refresh) error { return nil }

// Full says whether Sample would not wait.
func (c *Collector) Full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.filled == c.shape.Size
}

// Stats returns the counts.
func (c *Collector) Stats() Collected {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// Save writes the counts, for a checkpoint.
func (c *Collector) Save(w io.Writer) error { return json.NewEncoder(w).Encode(c.Stats()) }

// Load takes them up, and the version with them.
func (c *Collector) Load(r io.Reader) error {
	var counts Collected
	if err := json.NewDecoder(r).Decode(&counts); err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	c.mu.Lock()
	c.counts = counts
	c.mu.Unlock()
	c.Published(counts.Version)
	return nil
}

// Publisher tells a collector of each version that goes out by another one.
type Publisher struct {
	learner.Publisher
	Collector *Collector
}

// Publish tells the collector first: rollouts of the version may come before
// all of it is sent.
func (p Publisher) Publish(ctx context.Context, version uint64, blob []byte) error {
	p.Collector.Published(version)
	return p.Publisher.Publish(ctx, version, blob)
}
