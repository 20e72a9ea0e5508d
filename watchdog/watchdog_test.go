package watchdog

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is told what time it is.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// kennel is a watchdog with a clock and a log of its own.
type kennel struct {
	*Watchdog
	clock clock
	out   bytes.Buffer
}

func newKennel() *kennel {
	k := &kennel{clock: clock{now: time.Unix(1_700_000_000, 0)}}
	k.Watchdog = New(time.Minute, k.clock.read, hclog.New(&hclog.LoggerOptions{Output: &k.out, Level: hclog.Info}))
	return k
}

// run checks once a second for so long, as Run does, and returns what was logged.
func (k *kennel) run(d time.Duration) string {
	k.out.Reset()
	for ; d > 0; d -= CheckEvery {
		k.clock.pass(CheckEvery)
		k.Check()
	}
	return k.out.String()
}

func TestStallNamesRoleLoopAndStep(t *testing.T) {
	k := newKennel()
	loop := k.Loop("learner", "learn")
	defer loop.End()
	loop.Wait("batch")
	loop.Do("update")
	if said := k.run(59 * time.Second); said != "" || k.Stalled() {
		t.Errorf("before its time: %s", said)
	}
	said := k.run(2 * time.Second)
	for _, want := range []string{"[ERROR]", "role=learner", "loop=learn", "step=update", "for=1m0s"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is missing in %q", want, said)
		}
	}
	if !k.Stalled() || k.Accounts()[0].Stalled != 1 {
		t.Error("the loop is not called stalled")
	}
	if n := strings.Count(k.run(10*time.Minute), "[ERROR]"); n != 10 {
		t.Errorf("said %d times in ten minutes, want every minute", n)
	}
	loop.Do("update") // the next one
	if said := k.run(time.Second); !strings.Contains(said, "goes on") || !strings.Contains(said, "after=update") {
		t.Errorf("going on: %q", said)
	}
	if k.Stalled() || k.Accounts()[0].Stalled != 0 {
		t.Error("still called stalled")
	}
}

func TestWaitIsNoStallAndIsNamed(t *testing.T) {
	k := newKennel()
	loop := k.Loop("actor", "act")
	defer loop.End()
	said := ""
	for range 600 { // told again and again, it is one wait
		loop.Wait("replay")
		said += k.run(time.Second)
	}
	if k.Stalled() {
		t.Error("a wait is called a stall")
	}
	if n := strings.Count(said, "waits_for=replay"); n != 4 { // after 1, 2, 4 and 8 minutes
		t.Errorf("said %d times in ten minutes: %s", n, said)
	}
	s := k.States()
	if len(s) != 1 || !s[0].Waiting || s[0].Step != "replay" || s[0].For != 10*time.Minute {
		t.Errorf("states are %+v", s)
	}
}

func TestRepeatedStepsAreProgress(t *testing.T) {
	k := newKennel()
	loop := k.Loop("actor", "act")
	defer loop.End()
	for range 300 {
		loop.Do("tick")
		if said := k.run(time.Second); said != "" {
			t.Fatal(said)
		}
	}
}

func TestLoopThatHasNotBegunOrHasEndedIsNoStall(t *testing.T) {
	k := newKennel()
	idle, ended := k.Loop("replay", "save"), k.Loop("replay", "sync")
	defer idle.End()
	ended.Do("sync")
	ended.End()
	if said := k.run(5 * time.Minute); said != "" || k.Stalled() || len(k.States()) != 1 {
		t.Errorf("%q, %+v", said, k.States())
	}
}

// After SIGSTOP all loops are late at once, and none has stalled.
func TestProcessThatStoodStill(t *testing.T) {
	k := newKennel()
	loop := k.Loop("learner", "learn")
	defer loop.End()
	loop.Do("update")
	k.run(time.Second)
	k.clock.pass(time.Hour)
	if said := k.run(30 * time.Second); !strings.Contains(said, "stood still") || strings.Contains(said, "[ERROR]") || k.Stalled() {
		t.Errorf("after an hour in which nothing ran: %q", said)
	}
	if said := k.run(40 * time.Second); !strings.Contains(said, "[ERROR]") {
		t.Errorf("a loop that does not go on after it: %q", said)
	}
}

func TestSaturationAndDurations(t *testing.T) {
	k := newKennel()
	one, two := k.Loop("actor", "act"), k.Loop("actor", "act") // of one name: summed up
	defer two.End()
	k.Check()
	two.Wait("replay") // all the time
	for range 10 {
		one.Do("tick")
		k.clock.pass(500 * time.Millisecond)
		one.Wait("replay")
		k.clock.pass(500 * time.Millisecond)
		k.Check()
	}
	one.End()
	a := k.Accounts()
	if len(a) != 1 || a[0].Saturation != 0.25 {
		t.Fatalf("%+v, want a saturation of half of one of two", a)
	}
	var busy, waiting Durations
	for _, d := range a[0].Durations {
		if d.Waiting {
			waiting = d
		} else {
			busy = d
		}
	}
	at := 9 // (0.3, 1]
	if Bounds[at] != 1 || busy.Step != "tick" || busy.Counts[at] != 10 || busy.Sum != 5*time.Second {
		t.Errorf("busy %+v", busy)
	}
	if waiting.Step != "replay" || waiting.Counts[at] != 10 || waiting.Sum != 5*time.Second {
		t.Errorf("waiting %+v: the wait that lasts does not count yet", waiting)
	}
	three := k.Loop("actor", "act") // the account outlives its loops
	three.Do("tick")
	k.clock.pass(2 * time.Minute)
	three.End()
	for _, d := range k.Accounts()[0].Durations {
		if !d.Waiting && (d.Counts[len(Bounds)] != 1 || d.Counts[at] != 10) {
			t.Errorf("after another loop %+v", d)
		}
	}
}

func TestNobodyWatches(t *testing.T) {
	var k *Watchdog
	loop := k.Loop("actor", "act")
	loop.Do("tick")
	loop.Wait("replay")
	loop.End()
	if loop != nil {
		t.Error("a loop of no watchdog")
	}
}

func TestTellingAllocatesNothing(t *testing.T) {
	k := New(Limit, time.Now, hclog.NewNullLogger())
	loop := k.Loop("actor", "act")
	defer loop.End()
	turn := func() { loop.Do("tick"); loop.Wait("replay") }
	turn()
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	k := newKennel()
	loop := k.Loop("replay", "sync")
	defer loop.End()
	loop.Do("sync")
	ctx, cancel := context.WithCancel(t.Context())
	ticks, done := make(chan time.Time), make(chan struct{})
	go func() { k.Run(ctx, ticks); close(done) }()
	for range 61 {
		k.clock.pass(time.Second)
		ticks <- time.Time{}
	}
	cancel()
	<-done
	if !strings.Contains(k.out.String(), "step=sync") {
		t.Errorf("said %q", k.out.String())
	}
}

func BenchmarkTell(b *testing.B) {
	loop := New(Limit, time.Now, hclog.NewNullLogger()).Loop("actor", "act")
	for b.Loop() {
		loop.Do("tick")
	}
}
