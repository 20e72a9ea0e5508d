package actor

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

// Publisher takes chunks to the replay. *protocol.Bus is one.
type Publisher interface {
	// PublishChunk sends a chunk, blocking while too many are under way. After
	// nil, done is called once with the outcome. The chunk may be sent again
	// after an error, and is not referred to after return.
	PublishChunk(ctx context.Context, c *protocol.Chunk, done func(seq uint64, err error)) error
}

const (
	// firstRetry and lastRetry bound the pause after a failed attempt, which
	// doubles from one to the other: a stream that is full, or a server that
	// comes back, meets a thousand actors spread over seconds.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// sender empties the spool onto the bus.
type sender struct {
	spool     *spool
	publisher Publisher
	recycle   func(*protocol.Chunk)
	log       hclog.Logger
	watchdog  *watchdog.Watchdog

	published, failed, refused atomic.Uint64

	mu      sync.Mutex
	backoff backoff
}

// backoff is the pause after failures. Those that come while it lasts belong to
// the same outage and do not lengthen it.
type backoff struct {
	delay time.Duration
	until time.Time
}

func (b *backoff) fail(now time.Time) (began bool) {
	if now.Before(b.until) {
		return false
	}
	began = b.delay == 0
	b.delay = min(lastRetry, max(firstRetry, 2*b.delay))
	b.until = now.Add(b.delay/2 + rand.N(b.delay/2+1))
	return began
}

// run sends chunks until ctx ends. Outcomes of the last ones may be told later.
func (s *sender) run(ctx context.Context) {
	loop := s.watchdog.Loop("actor", "send")
	defer loop.End()
	for ctx.Err() == nil {
		wait, outage := s.pause()
		if wait > 0 {
			loop.Wait("next attempt")
			sleep(ctx, wait)
			continue
		}
		e, changed := s.spool.take(outage) // one alone finds out whether it is over
		if e == nil {
			loop.Wait("chunks")
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		loop.Do("publish")
		if err := s.publisher.PublishChunk(ctx, e.chunk, func(_ uint64, err error) { s.settle(e, err) }); err != nil {
			if ctx.Err() != nil {
				s.spool.again(e)
				return
			}
			s.settle(e, err)
		}
	}
}

// settle takes in the outcome of one attempt.
func (s *sender) settle(e *entry, err error) {
	switch {
	case err == nil:
		s.published.Add(1)
		s.mu.Lock()
		s.backoff = backoff{}
		s.mu.Unlock()
		s.spool.done(e)
		s.recycle(e.chunk)
	case errors.Is(err, protocol.ErrCorrupt), errors.Is(err, protocol.ErrTooLarge):
		// It would be refused again and again.
		s.refused.Add(1)
		s.log.Error("chunk is dropped: it can not be sent", "chunk", e.chunk.MessageID(), "error", err)
		s.spool.done(e)
	default:
		s.failed.Add(1)
		s.mu.Lock()
		began := s.backoff.fail(time.Now())
		s.mu.Unlock()
		if began {
			s.log.Warn("chunks can not be sent, trying again", "error", err)
		}
		s.spool.again(e)
	}
}

// pause returns how long to wait before the next attempt, and whether the last
// one failed.
func (s *sender) pause() (wait time.Duration, outage bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.backoff.until), s.backoff.delay > 0
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
