package actor

import (
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func seqs(s *spool) (all []uint64) {
	for _, e := range s.entries {
		all = append(all, e.chunk.Seq)
	}
	return all
}

func equal(a []uint64, b ...uint64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestSpoolDropsTheOldestThatIsNotBeingSent(t *testing.T) {
	s := newSpool(3, 1<<20)
	s.add(&protocol.Chunk{Seq: 0})
	s.add(&protocol.Chunk{Seq: 1})
	sending, _ := s.take(false)
	for seq := range uint64(3) {
		s.add(&protocol.Chunk{Seq: 2 + seq})
	}
	if got := seqs(s); !equal(got, 0, 3, 4) {
		t.Errorf("spool holds %v, want 0 (being sent), 3 and 4", got)
	}
	s.again(sending)
	s.add(&protocol.Chunk{Seq: 5})
	if got := seqs(s); !equal(got, 3, 4, 5) {
		t.Errorf("spool holds %v, want 3, 4 and 5: 0 was given back as the oldest", got)
	}
	if _, _, dropped := s.level(); dropped != 3 {
		t.Errorf("%d chunks are counted as dropped, want 3", dropped)
	}
}

func TestSpoolIsBoundedInBytes(t *testing.T) {
	s := newSpool(100, 1000)
	for seq := range uint64(10) {
		s.add(&protocol.Chunk{Seq: seq, Obs: make([]float32, 75)}) // 300 bytes
	}
	if chunks, bytes, dropped := s.level(); chunks != 3 || bytes != 900 || dropped != 7 {
		t.Errorf("spool holds %d chunks of %d bytes and dropped %d, want 3, 900 and 7", chunks, bytes, dropped)
	}
}

func TestSpoolTakesInOrder(t *testing.T) {
	s := newSpool(10, 1<<20)
	for seq := range uint64(3) {
		s.add(&protocol.Chunk{Seq: seq})
	}
	first, _ := s.take(false)
	second, _ := s.take(false)
	if alone, _ := s.take(true); alone != nil {
		t.Errorf("%d is to be sent alone and is not", alone.chunk.Seq)
	}
	s.again(first)
	again, _ := s.take(false)
	if again != first || second.chunk.Seq != 1 {
		t.Errorf("took %d after it came back, and %d second", again.chunk.Seq, second.chunk.Seq)
	}
	s.done(second)
	s.done(first)
	if got := seqs(s); !equal(got, 2) {
		t.Errorf("spool holds %v, want 2", got)
	}
	if _, changed := s.take(false); changed != nil {
		t.Error("the last chunk is not to be had")
	}
	_, changed := s.take(false)
	s.add(&protocol.Chunk{})
	select {
	case <-changed:
	default:
		t.Error("who waited for a chunk was not told")
	}
}

func TestBackoffGrowsWithOutagesNotWithFailures(t *testing.T) {
	var b backoff
	now := time.Unix(1000, 0)
	if !b.fail(now) || b.fail(now) {
		t.Error("two failures at once do not begin one outage")
	}
	if b.delay != firstRetry {
		t.Errorf("the first pause is %v, want %v", b.delay, firstRetry)
	}
	for range 20 {
		if now = b.until; b.fail(now) {
			t.Error("an outage began twice")
		}
		if wait := b.until.Sub(now); wait < b.delay/2 || wait > b.delay {
			t.Errorf("pause of %v, want %v to %v", wait, b.delay/2, b.delay)
		}
	}
	if b.delay != lastRetry {
		t.Errorf("the pause grew to %v, want %v", b.delay, lastRetry)
	}
}

func TestGate(t *testing.T) {
	now := time.Unix(1000, 0)
	const leave = 3
	var g gate
	if g.wait(now, leave) > 0 {
		t.Error("held without any message")
	}
	g.hear(&told{flow: protocol.Flow{Hold: true}, at: now, leave: leave})
	if got := g.wait(now.Add(time.Second), leave); got != flowTimeout-time.Second {
		t.Errorf("held for %v, want %v", got, flowTimeout-time.Second)
	}
	message := &told{at: now, leave: leave}
	g.hear(message)
	if g.wait(now, leave) > 0 {
		t.Error("held by a message that lets run")
	}
	g.left -= leave
	g.hear(message)
	if got := g.wait(now.Add(time.Second), leave); got != flowTimeout-time.Second {
		t.Errorf("with no leave left held for %v, want %v", got, flowTimeout-time.Second)
	}
	for i := range time.Duration(3) { // the replay is silent
		now = now.Add(flowTimeout)
		if g.wait(now, leave) > 0 || g.left != leave {
			t.Errorf("leave for %d ticks after %d times without a message, want %d", g.left, i+1, leave)
		}
		g.left -= leave
		if got := g.wait(now, leave); got != flowTimeout {
			t.Errorf("after them held for %v, want %v", got, flowTimeout)
		}
	}
	g.hear(&told{at: now, leave: leave})
	if g.wait(now, leave) > 0 {
		t.Error("held by another message that lets run")
	}
}
