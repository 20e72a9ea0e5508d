package bench

import (
	"context"
	"errors"
	"testing"
)

func options(t *testing.T) *Options { return &Options{Threads: 2, Rounds: 5, Dir: t.TempDir()} }

// Value and limit take turns, the first round counts for nothing, and the ratio
// is that of the rounds, not of the medians.
func TestRounds(t *testing.T) {
	values := []float64{1000, 1, 2, 3, 4, 100}
	limits := []float64{1, 10, 10, 10, 400, 1000}
	turn := 0
	next := func(x []float64, odd int) func() (float64, error) {
		return func() (float64, error) {
			if turn%2 != odd {
				t.Fatalf("turn %d is out of order", turn)
			}
			turn++
			return x[(turn-1)/2], nil
		}
	}
	r, err := options(t).rounds(t.Context(), next(values, 0), next(limits, 1))
	if err != nil {
		t.Fatal(err)
	}
	if r.Value != 3 || r.Limit != 10 || r.Ratio != 0.1 {
		t.Errorf("%+v", r)
	}
	wrong := errors.New("wrong")
	if _, err := options(t).rounds(t.Context(), func() (float64, error) { return 0, wrong }, nil); !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := options(t).rounds(ctx, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		x    []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{5, 1}, 3}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.x); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.x, got, c.want)
		}
	}
}

func TestEnv(t *testing.T) { check(t, runEnv, "env/simulator", "env/trial") }

// Every operator of the training graph belongs to a phase.
func TestPhase(t *testing.T) {
	for op, want := range map[string]string{
		"imagine'": "imagination", "dream_reward": "heads in imagination", "observe'": "rssm",
		"prior": "heads on replay", "kl'": "losses", "total": "losses",
	} {
		if got := phase(op); got != want {
			t.Errorf("%s belongs to %s, want %s", op, got, want)
		}
	}
}
