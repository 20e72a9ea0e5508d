package replay

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// The transcript shows what both sides are told, step by step: "+n" inserts,
// "-n" samples if allowed.
func TestLimiterTranscript(t *testing.T) {
	l, err := NewLimiter(LimiterConfig{Ratio: 2, MinSteps: 100, Budget: 64}, 32, 1000)
	if err != nil {
		t.Fatal(err)
	}
	const want = `
+60: 60 in, 0 out, balance 0
-32: waits for steps to be inserted: 60 of the first 100 are there
+60: 120 in, 0 out, balance 40
-32: 120 in, 32 out, balance 8
-32: 120 in, 64 out, balance -24
-32: 120 in, 96 out, balance -56
-32: waits for 12 more steps to be inserted: samples are ahead of 2 per insert
+11: 131 in, 96 out, balance -34
-32: waits for 1 more steps to be inserted: samples are ahead of 2 per insert
+1: 132 in, 96 out, balance -32
-32: 132 in, 128 out, balance -64
+64: 196 in, 128 out, balance 64
+1: 197 in, 128 out, balance 66, holds actors for 2 more steps to be sampled: inserts are ahead of 2 samples per insert
+10: 207 in, 128 out, balance 86, holds actors for 22 more steps to be sampled: inserts are ahead of 2 samples per insert
-32: 207 in, 160 out, balance 54
`
	var got strings.Builder
	got.WriteByte('\n')
	for _, line := range strings.Split(strings.TrimSpace(want), "\n") {
		var steps int
		if _, err := fmt.Sscanf(line, "%d", &steps); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%+d: ", steps)
		switch {
		case steps > 0:
			l.Insert(steps)
		case l.CanSample(-steps):
			l.Sample(-steps)
		default:
			fmt.Fprintf(&got, "waits %s\n", l.Waiting(-steps))
			continue
		}
		fmt.Fprintf(&got, "%d in, %d out, balance %v", l.State().Inserted, l.State().Sampled, l.State().Balance)
		if l.Hold(0) {
			fmt.Fprintf(&got, ", holds actors %s", l.Holding(0))
		}
		got.WriteByte('\n')
	}
	if got.String() != want {
		t.Errorf("got%swant%s", got.String(), want)
	}
}

func TestLimiterRefusesDeadlocks(t *testing.T) {
	for _, test := range []struct {
		cfg  LimiterConfig
		want string
	}{
		{LimiterConfig{0, 1, 32, 0}, "ratio is 0"},
		{LimiterConfig{math.NaN(), 1, 32, 0}, "ratio is NaN"},
		{LimiterConfig{math.Inf(1), 1, 32, 0}, "ratio is +Inf"},
		{LimiterConfig{1, 0, 32, 0}, "before the first sample are 0"},
		{LimiterConfig{1, 1001, 32, 0}, "before the first sample are 1001 and the capacity is 1000"},
		{LimiterConfig{1, 1, 31, 0}, "error budget is 31 replayed steps and a batch has 32"},
	} {
		if _, err := NewLimiter(test.cfg, 32, 1000); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.cfg, err, test.want)
		}
	}
	l, err := NewLimiter(LimiterConfig{1, 1, 32, 0}, 32, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Restore(LimiterState{Balance: math.NaN()}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a balance that is no number: %v", err)
	}
}

// Whatever the order and the sizes, one side can go on, and the counts keep
// within a batch and a chunk of the ratio.
func FuzzLimiterNeverDeadlocks(f *testing.F) {
	f.Add([]byte{1, 200, 3, 90}, uint16(100), uint8(3))
	f.Add([]byte{255, 255, 255, 0, 0}, uint16(1), uint8(200))
	f.Fuzz(func(t *testing.T, moves []byte, minSteps uint16, ratio uint8) {
		const batch, capacity = 64, 1 << 16
		cfg := LimiterConfig{Ratio: float64(ratio)/16 + 0.01, MinSteps: int(minSteps) + 1, Budget: batch}
		if cfg.MinSteps > capacity {
			return
		}
		l, err := NewLimiter(cfg, batch, capacity)
		if err != nil {
			t.Fatal(err)
		}
		for i, move := range moves {
			steps := int(move) + 1
			if l.Hold(0) && !l.CanSample(batch) {
				t.Fatalf("after %d moves both sides wait: %+v", i, l.State())
			}
			if l.Waiting(batch) == "" != l.CanSample(batch) || l.Holding(0) == "" == l.Hold(0) {
				t.Fatalf("after %d moves words and deeds differ: %+v", i, l.State())
			}
			if move%2 == 0 && !l.Hold(0) {
				l.Insert(steps)
			} else if l.CanSample(batch) {
				l.Sample(batch)
			}
			if b := l.State().Balance; b < -batch || b > batch+256*cfg.Ratio {
				t.Fatalf("after %d moves the balance is %v", i, b)
			}
		}
	})
}

func TestLimiterRatioChangesForward(t *testing.T) {
	l, err := NewLimiter(LimiterConfig{4, 10, 100, 0}, 10, 1000)
	if err != nil {
		t.Fatal(err)
	}
	l.Insert(20)
	l.Sample(30)
	other, err := NewLimiter(LimiterConfig{1, 10, 100, 0}, 10, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Restore(l.State()); err != nil {
		t.Fatal(err)
	}
	other.Insert(5)
	if got, want := other.State(), (LimiterState{25, 30, 15}); got != want {
		t.Errorf("state %+v, want %+v: the new ratio counts from now on", got, want)
	}
}

// Steps on their way count for the hold as if they had come, the first ones
// being owed no samples.
func TestHoldCountsWhatIsOnItsWay(t *testing.T) {
	l, err := NewLimiter(LimiterConfig{Ratio: 4, MinSteps: 100, Budget: 40}, 8, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	l.Insert(60)
	for _, test := range []struct {
		incoming uint64
		hold     bool
	}{{0, false}, {40, false}, {50, false}, {51, true}} {
		if l.Hold(test.incoming) != test.hold || (l.Holding(test.incoming) != "") != test.hold {
			t.Errorf("with %d steps on their way hold is %v", test.incoming, !test.hold)
		}
	}
	l.Insert(50) // 110: 40 replayed steps are owed, as many as the budget
	if l.Hold(0) || !l.Hold(1) {
		t.Errorf("hold is %v with nothing on its way and %v with a step", l.Hold(0), l.Hold(1))
	}
}
