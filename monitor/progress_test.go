package monitor

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func snapshot(elapsed time.Duration, env, train int64) Snapshot {
	return Snapshot{
		Run: "small", Phase: "training", Elapsed: elapsed, Duration: 20 * time.Minute, EnvSteps: env, StepLimit: 100_000, TrainSteps: train,
		Losses: []Value{{"model", 12.345678}, {"actor", -0.01}}, Staleness: 3.25, ReplaySteps: env, ReplayCapacity: 500_000,
		Evaluation: &Evaluation{EnvSteps: 20_000, Ratio: 1.2345},
	}
}

func TestPlainProgress(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, ProgressConfig{})
	if err := p.Show(Snapshot{Phase: "waiting"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Show(snapshot(10*time.Second, 2000, 40)); err != nil {
		t.Fatal(err)
	}
	want := "0s waiting env 0 (0/s) train 0 (0.0/s)\n" + // without a replay
		"10s training env 2000 (200/s) train 40 (4.0/s) model=12.35 actor=-0.01 staleness=3.2 replay=2000 evaluation=1.234xLEFT@20000 left 8m10s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestTerminalProgressRedrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	width := 200
	p := NewProgress(&out, ProgressConfig{Terminal: true, Width: func() int { return width }})
	if err := p.Show(snapshot(0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := p.Show(snapshot(time.Minute, 12_345, 600)); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[5A\r\x1b[Jsmall  training  1m0s, 7m6s left\n" +
		"  environment  12,345 steps of 100,000, 206/s; replay 12,345 of 500,000\n" +
		"  training     600 steps, 10.0/s; replayed steps were acted 3.2 versions ago\n" +
		"  losses       model 12.35, actor -0.01\n" +
		"  evaluation   1.234 x LEFT at 20,000 steps\n"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}

	out.Reset()
	if _, err := p.Write([]byte("a log line\n")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.HasPrefix(got, "\x1b[5A\r\x1b[Ja log line\nsmall  training") {
		t.Errorf("a log line is not above the display: %q", got)
	}

	width = 30
	out.Reset()
	if err := p.Show(snapshot(2*time.Minute, 0, 0)); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimPrefix(out.String(), "\x1b[5A\r\x1b[J"), "\n") {
		if len(line) > width {
			t.Errorf("%q is wider than the terminal", line)
		}
	}
}

func TestRatesForgetThePast(t *testing.T) {
	p := NewProgress(new(bytes.Buffer), ProgressConfig{})
	for second := range 60 {
		env := int64(1000 * second) // filling the replay is fast
		if second > 10 {
			env = 10_000 + int64(10*(second-10))
		}
		if err := p.Show(snapshot(time.Duration(second)*time.Second, env, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if env, _ := p.rates(); env != 10 {
		t.Errorf("rate %v a second, want 10", env)
	}
}

func TestTimeLeft(t *testing.T) {
	for _, test := range []struct {
		name string
		s    Snapshot
		rate float64
		want time.Duration
		ok   bool
	}{
		{"no budget", Snapshot{}, 10, 0, false},
		{"steps without a rate", Snapshot{StepLimit: 10}, 0, 0, false},
		{"steps", Snapshot{StepLimit: 100, EnvSteps: 50}, 10, 5 * time.Second, true},
		{"duration", Snapshot{Duration: time.Minute, Elapsed: time.Second}, 0, 59 * time.Second, true},
		{"the first of both", Snapshot{Duration: time.Minute, StepLimit: 100}, 10, 10 * time.Second, true},
		{"over", Snapshot{Duration: time.Minute, Elapsed: time.Hour, StepLimit: 1, EnvSteps: 2}, 10, 0, true},
		{"ages", Snapshot{StepLimit: 1 << 62}, 1e-9, 1e9 * time.Second, true},
	} {
		if got, ok := timeLeft(test.s, test.rate); got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %v", test.name, got, ok)
		}
	}
}

func TestProgressRunEndsWithItsContext(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, ProgressConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	ticks := make(chan time.Time)
	done := make(chan error)
	go func() { done <- p.Run(ctx, ticks, func() Snapshot { return Snapshot{Phase: "training"} }) }()
	ticks <- time.Time{}
	ticks <- time.Time{}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines for two ticks and the end", n)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("broken pipe")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestProgressReportsABrokenOutput(t *testing.T) {
	p := NewProgress(brokenWriter{}, ProgressConfig{})
	if err := p.Show(Snapshot{}); !errors.Is(err, errBroken) {
		t.Errorf("shown with %v", err)
	}
}

func TestGroup(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -100: "-100", 1234567: "1,234,567"} {
		if got := group(n); got != want {
			t.Errorf("%d is shown as %s", n, got)
		}
	}
}

// The first line has rates: they count from when the display began.
func TestFirstLineHasRates(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, ProgressConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	shown := 0
	err := p.Run(ctx, nil, func() Snapshot {
		shown++
		cancel()
		return Snapshot{Elapsed: time.Duration(shown) * 10 * time.Second, EnvSteps: 1000 + int64(shown)*500, TrainSteps: int64(shown) * 20}
	})
	if err != nil || !strings.Contains(out.String(), "(50/s)") || !strings.Contains(out.String(), "(2.0/s)") {
		t.Errorf("%v: %s", err, out.String())
	}
}
