package actor

import (
	"context"
	"slices"
	"sync"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// spool keeps chunks, oldest first, until the bus has stored them. Adding
// never blocks: beyond the bounds the oldest chunk that is not being sent is
// dropped. It is safe for concurrent use.
type spool struct {
	maxChunks, maxBytes int

	mu      sync.Mutex
	entries []*entry
	bytes   int
	dropped uint64
	changed chan struct{} // closed and replaced at every change
}

type entry struct {
	chunk   *protocol.Chunk
	bytes   int
	sending bool
}

func newSpool(maxChunks, maxBytes int) *spool {
	return &spool{maxChunks: maxChunks, maxBytes: maxBytes, changed: make(chan struct{})}
}

// size is what a chunk takes in memory, within a few hundred bytes.
func size(c *protocol.Chunk) int {
	return 4*(len(c.Obs)+len(c.Reward)+len(c.LogProb)+len(c.Context)) + 2*len(c.Action) + len(c.Flags) + len(c.Mask)
}

func (s *spool) add(c *protocol.Chunk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &entry{chunk: c, bytes: size(c)}
	s.entries = append(s.entries, e)
	s.bytes += e.bytes
	for len(s.entries) > s.maxChunks || s.bytes > s.maxBytes {
		i := slices.IndexFunc(s.entries, func(e *entry) bool { return !e.sending })
		if i < 0 {
			break
		}
		s.remove(i)
		s.dropped++
	}
	s.signal()
}

// take returns the oldest chunk that is not being sent, which then is, or nil
// and a channel that is closed when another look is worth while. With alone
// there is none while another is being sent.
func (s *spool) take(alone bool) (*entry, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.entries, func(e *entry) bool { return !e.sending })
	if i < 0 || alone && slices.ContainsFunc(s.entries, func(e *entry) bool { return e.sending }) {
		return nil, s.changed
	}
	s.entries[i].sending = true
	return s.entries[i], nil
}

// done removes a chunk that need not be sent any more.
func (s *spool) done(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.entries, e); i >= 0 {
		s.remove(i)
	}
	s.signal()
}

// again gives back a chunk that could not be sent.
func (s *spool) again(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.sending = false
	s.signal()
}

// drained waits until the spool is empty.
func (s *spool) drained(ctx context.Context) error {
	for {
		s.mu.Lock()
		empty, changed := len(s.entries) == 0, s.changed
		s.mu.Unlock()
		if empty {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// crowded returns nil while the spool holds less than so many chunks and is
// less than half full, and otherwise a channel that is closed when another look
// is worth while.
func (s *spool) crowded(chunks int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) < min(chunks, s.maxChunks/2) && 2*s.bytes < s.maxBytes {
		return nil
	}
	return s.changed
}

// level returns the chunks and bytes in the spool, and the chunks dropped so
// far.
func (s *spool) level() (chunks, bytes int, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries), s.bytes, s.dropped
}

func (s *spool) remove(i int) {
	s.bytes -= s.entries[i].bytes
	s.entries = slices.Delete(s.entries, i, i+1)
}

func (s *spool) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}
