package replay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// What is stored is counted by task and age, through eviction and a restart, and
// the limiter says whom it holds.
func TestStatus(t *testing.T) {
	const steps = 50
	cfg := testConfig(t.TempDir())
	cfg.Capacity, cfg.Mix = 2500, Mix{Uniform: 1}
	cfg.Limiter = LimiterConfig{Ratio: 1, MinSteps: 100, Budget: 2000}
	now := time.Unix(1e9, 0)
	cfg.Now = func() time.Time { return now }
	s := openStore(t, cfg)
	fill := s.status()
	look := func() *protocol.ReplayStatus {
		var status protocol.Status
		fill(&status)
		return status.Replay
	}
	if l := look().Limiter; l.State != protocol.LimiterFilling || !strings.Contains(l.Waiting, "0 of the first 100") {
		t.Errorf("an empty replay is %+v", l)
	}
	put := func(from, to uint64, task string) {
		for seq := from; seq < to; seq++ {
			c := testChunk("a", 0, seq, steps)
			c.Task = task
			insert(t, s, c)
		}
	}
	put(0, 30, "old")
	if l := look().Limiter; l.State != protocol.LimiterBalanced || l.Balance != 1400 || l.Budget != 2000 {
		t.Errorf("a filled replay is %+v", l)
	}
	put(30, 60, "new")
	now = now.Add(10 * time.Second)
	got := look()
	if got.Limiter.State != protocol.LimiterActors || !strings.Contains(got.Limiter.Waiting, "900 more steps to be sampled") {
		t.Errorf("a replay that runs ahead is %+v", got.Limiter)
	}
	if got.InsertsPerSecond != 300 || got.SamplesPerSecond != 0 || got.Steps != 2500 || got.Inserted != 3000 {
		t.Errorf("status %+v", got)
	}
	// Chunks 10 to 59 are stored; those below 39 have at least 1000 steps after them.
	const want = "[{new [1000 500 0 0 0 0]} {old [0 1000 0 0 0 0]}]"
	if text := fmt.Sprint(got.Tasks); text != want {
		t.Errorf("composition is %s, want %s", text, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, cfg)
	if text := fmt.Sprint(s.Composition()); text != want {
		t.Errorf("composition after a restart is %s, want %s", text, want)
	}
	if n := len(s.index.tasks); n != 2 {
		t.Errorf("%d tasks are known, want 2", n)
	}
	put(60, 110, "newest")
	if text := fmt.Sprint(s.Composition()); !strings.HasPrefix(text, "[{newest [") || len(s.index.tasks) != 1 {
		t.Errorf("composition once the others are gone is %s of %d tasks", text, len(s.index.tasks))
	}
}
