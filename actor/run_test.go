package actor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// The tests of this file run on synctest's clock: time passes when every
// goroutine waits. paced makes the environments wait, too.
type paced struct{ *script }

func (p paced) Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32) {
	time.Sleep(10 * time.Millisecond)
	p.script.Act(obs, flags, mask, action, logProb)
}

func pacedActor(t *testing.T, spool int, publisher Publisher) *Actor {
	t.Helper()
	a, err := New(Config{Run: "park", Name: "a", ChunkLength: 10, Stride: 5, Spool: spool}, trials(t, 1, false), paced{newScript(1)}, publisher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// runFor runs the actor, which nothing holds, for a time and returns when it has
// drained.
func runFor(t *testing.T, a *Actor, d time.Duration) {
	t.Helper()
	letRun(a)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// Chunks that the bus refuses for a while are sent again under the same ids,
// and the environments do not wait meanwhile.
func TestRunRetriesUnderTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &stored{fail: func(attempt int, _ *protocol.Chunk) error {
			if attempt <= 4 {
				return protocol.ErrFull
			}
			return nil
		}}
		a := pacedActor(t, 100, bus)
		runFor(t, a, 10*time.Second+time.Millisecond)
		var want []string
		for _, c := range bus.all() {
			want = append(want, c.MessageID())
		}
		attempts := bus.attempts()
		for _, id := range attempts {
			if !slices.Contains(want, id) {
				t.Errorf("%s was tried and never stored", id)
			}
		}
		s := a.Stats()
		if s.Steps < 1000 || uint64(len(want)) != s.Chunks || s.Failed != 4 || s.Dropped != 0 || len(attempts) != len(want)+4 {
			t.Errorf("after 10 s %d chunks are stored and the stats are %+v; want 1000 steps in as many chunks as were assembled, after 4 failures", len(want), s)
		}
	})
}

func TestRunSurvivesALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := time.Now().Add(time.Minute)
		bus := &stored{fail: func(int, *protocol.Chunk) error {
			if time.Now().Before(over) {
				return protocol.ErrDisconnected
			}
			return nil
		}}
		a := pacedActor(t, 20, bus)
		runFor(t, a, 2*time.Minute)
		s := a.Stats()
		if s.Steps < 11_999 {
			t.Errorf("%d steps in two minutes: the environments waited for the bus", s.Steps)
		}
		if s.Dropped == 0 || s.Dropped+s.Published != s.Chunks || s.SpoolChunks != 0 {
			t.Errorf("stats are %+v: chunks are missing", s)
		}
		// 100 ms, 200 ms ... 5 s, each at least half: under 30 in a minute.
		if s.Failed > 30 {
			t.Errorf("%d attempts in a minute's outage", s.Failed)
		}
	})
}

// dawdling takes a second for each chunk, ten times what the environments need.
type dawdling struct{ *stored }

func (d dawdling) PublishChunk(ctx context.Context, c *protocol.Chunk, done func(uint64, error)) error {
	time.Sleep(time.Second)
	return d.stored.PublishChunk(ctx, c, done)
}

// A bus that is slow but works costs time, not chunks.
func TestRunDoesNotOutrunTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pacedActor(t, 20, dawdling{&stored{}})
		runFor(t, a, time.Minute)
		if s := a.Stats(); s.Dropped != 0 || s.Published < 50 {
			t.Errorf("stats are %+v, want none dropped and one chunk stored a second", s)
		}
	})
}

func TestChunkThatCanNotBeSentIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &stored{fail: func(_ int, c *protocol.Chunk) error {
			if c.Seq == 1 {
				return protocol.ErrTooLarge
			}
			return nil
		}}
		a := pacedActor(t, 20, bus)
		runFor(t, a, 990*time.Millisecond)
		if s := a.Stats(); s.Refused != 1 || s.Failed != 0 || s.Published != s.Chunks-1 {
			t.Errorf("stats are %+v, want one chunk refused and the others stored", s)
		}
		if err := a.Flush(t.Context()); err != nil {
			t.Errorf("flush of nothing: %v", err)
		}
	})
}

func TestFlowHoldsAndLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pacedActor(t, 20, &stored{})
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- a.Run(ctx) }()
		steps := func(after time.Duration) uint64 {
			time.Sleep(after)
			synctest.Wait()
			return a.Stats().Steps
		}
		if got := steps(4 * time.Second); got != 0 {
			t.Errorf("%d steps before the replay was heard of", got)
		}
		const leave = leaveChunks * 10
		for i := range uint64(3) {
			a.SetFlow(protocol.Flow{})
			if got := steps(time.Second); got != (i+1)*leave {
				t.Errorf("%d steps after %d messages, want %d", got, i+1, (i+1)*leave)
			}
		}
		a.SetFlow(protocol.Flow{Hold: true, Reason: "learning is behind"})
		held := steps(20 * time.Millisecond) // the tick under way ends
		if s := a.Stats(); s.Held != "learning is behind" {
			t.Errorf("stats say %q of what holds", s.Held)
		}
		for range 8 { // repeated, it holds on
			time.Sleep(time.Second)
			a.SetFlow(protocol.Flow{Hold: true})
		}
		if got := steps(4 * time.Second); got != held {
			t.Errorf("%d steps while held", got-held)
		}
		if got := steps(2 * time.Second); got == held {
			t.Error("still held 6 s after the last message")
		}
		a.SetFlow(protocol.Flow{Hold: true})
		held = steps(20 * time.Millisecond)
		a.SetFlow(protocol.Flow{})
		if got := steps(100 * time.Millisecond); got < held+9 {
			t.Errorf("%d steps in the 100 ms after it was let go", got-held)
		}
		a.SetFlow(protocol.Flow{Hold: true})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Without a replay the environments go on slowly.
func TestRunWithoutAReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := pacedActor(t, 1000, &stored{})
		ctx, cancel := context.WithTimeout(t.Context(), 3*flowTimeout+time.Second)
		defer cancel()
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if got := a.Stats().Steps; got != 3*leaveChunks*10 {
			t.Errorf("%d steps after three times without a message, want two chunks each", got)
		}
	})
}

// Ending, an actor sends what is incomplete, and gives up in time when the bus
// takes nothing.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &stored{}
		a := pacedActor(t, 20, bus)
		runFor(t, a, 255*time.Millisecond)
		chunks := bus.all()
		if n := len(chunks); n != 3 || chunks[2].Steps >= 10 || a.Stats().SpoolChunks != 0 {
			t.Errorf("%d chunks are stored, the last of %d steps; want 2 and a partial one", n, chunks[n-1].Steps)
		}

		a = pacedActor(t, 20, &stored{fail: func(int, *protocol.Chunk) error { return errors.New("away") }})
		start := time.Now()
		runFor(t, a, 255*time.Millisecond)
		if took := time.Since(start); took > 255*time.Millisecond+drainTimeout+time.Second {
			t.Errorf("it took %v to give up", took)
		}
		if s := a.Stats(); s.SpoolChunks != 3 {
			t.Errorf("%d chunks are reported left, want 3", s.SpoolChunks)
		}
	})
}

func TestRunEndsWithAnEnvironmentsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := New(Config{Run: "park", Name: "a", ChunkLength: 5, Stride: 5, Spool: 4}, trials(t, 1, true), cheat{newScript(1)}, &stored{}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(t.Context()); err == nil {
			t.Error("Run goes on after a forbidden action")
		}
	})
}
