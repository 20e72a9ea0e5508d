package bench

import (
	"context"
	"math"
	"os"
	"slices"
	"testing"
	"time"
)

// check runs a benchmark in a folder that it must leave empty. The figures must
// have these names, in order, and be positive numbers.
func check(t *testing.T, run func(context.Context, *Options, func(Result)) error, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o := &Options{Threads: 1, Rounds: 1, Dir: t.TempDir()}
	var got []string
	err := run(ctx, o, func(r Result) {
		t.Logf("%+v", r)
		got = append(got, r.Name)
		for what, v := range map[string]float64{"value": r.Value, "limit": r.Limit, "ratio": r.Ratio} {
			wanted := what == "value" || r.LimitKind != "none"
			if math.IsNaN(v) || math.IsInf(v, 0) || wanted != (v > 0) {
				t.Errorf("%s of %s is %v with a limit of kind %q", what, r.Name, v, r.LimitKind)
			}
		}
		if r.Unit == "" || r.Config == "" || r.LimitKind == "" {
			t.Errorf("%s is incomplete: %+v", r.Name, r)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, names) {
		t.Errorf("figures %v, want %v", got, names)
	}
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left in the folder, error %v", left, err)
	}
}

func TestReplay(t *testing.T) {
	z := replaySizes{window: 6400, restart: 12_800, batch: 2, length: 64, pace: 100_000, memory: 1 << 20, round: 100 * time.Millisecond}
	check(t, z.run, "replay/sample", "replay/insert", "replay/disk", "replay/restart")
}

func TestIngest(t *testing.T) {
	z := ingestSizes{chunks: []int{4 << 10, 16 << 10}, bytes: 64 << 10, actors: 2, window: 10_000}
	check(t, z.run, "ingest/4KB", "ingest/4KB_stream", "ingest/4KB_beside_stream",
		"ingest/16KB", "ingest/16KB_stream", "ingest/16KB_beside_stream")
}

func TestBroadcast(t *testing.T) {
	z := broadcastSizes{values: 300_000, followers: 3, acting: actingSizes{rows: 2, steps: 20}}
	check(t, z.run, "broadcast/float32", "broadcast/bfloat16", "broadcast/bfloat16_bytes",
		"broadcast/bfloat16_largest_difference", "broadcast/bfloat16_mean_difference", "broadcast/bfloat16_same_greedy_action")
}

func TestBenchmarksEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, b := range All() {
		switch b.Name {
		case "replay", "ingest", "broadcast":
			if err := b.Run(ctx, &Options{Rounds: 1, Dir: t.TempDir()}, func(Result) {}); err == nil {
				t.Errorf("%s runs without a context", b.Name)
			}
		}
	}
}
