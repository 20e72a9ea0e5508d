package dispatch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is one that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// testPolicy is one of three servers, tiny, and trained for nothing.
func testPolicy(t testing.TB) Policy {
	t.Helper()
	cfg := loadbalance.DefaultConfig()
	cfg.Servers, cfg.Jobs = 3, 40
	view, err := loadbalance.NewView(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tasks := &loadbalance.Tasks{Base: *loadbalance.ParkTask()}
	tasks.Base.Rates = []float64{0.5, 1, 2}
	return Policy{
		Model: model.Config{
			Obs: view.Width() + env.Extra, Actions: 3, Deter: 16, Hidden: 8, Stoch: 3, Classes: 4, Units: 8, Layers: 1, Blocks: 2, Bins: 11,
			Recurrent: true, PolicyUnits: 4, Unimix: 0.01,
		},
		Env: cfg, Tasks: tasks,
	}
}

// testParams are drawn; bias is that of the policy's last layer, for or against servers.
func testParams(t testing.TB, p Policy, seed uint64, bias ...float32) *model.File {
	t.Helper()
	params, err := model.NewParams(p.Model)
	if err != nil {
		t.Fatal(err)
	}
	params.Init(rand.New(rand.NewPCG(seed, 2)))
	for _, x := range params.Module(model.Actor).Tensors {
		if x.Name == model.Actor+"/out/bias" {
			copy(x.Data, bias)
		}
	}
	return &model.File{Tensors: params.Tensors()}
}

// testPlan has no audit log to sync often and no deadline that a busy machine misses.
func testPlan() Plan {
	p := DefaultPlan()
	p.Stage = Active
	p.Guards.Surprise.Quantile = 0
	p.Guards.State.Settle = 4
	p.Guards.Deadline.Limit = time.Minute
	p.Step = StepPlan{}
	return p
}

var nullLog = hclog.NewNullLogger()

// rig is a service that runs.
type rig struct {
	*Service
	clock *clock
	stop  func()
}

func start(t testing.TB, c Config) *rig {
	t.Helper()
	clock := newClock()
	if c.Now == nil {
		c.Now = clock.Now
	}
	if c.Log == nil {
		c.Log = nullLog
	}
	if c.Policy.Model.Obs == 0 {
		c.Policy = testPolicy(t)
	}
	c.Run, c.Name, c.Stride = "test", "dispatcher", 8
	s, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &rig{Service: s, clock: clock}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the service ended: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) offer(t testing.TB, number uint64, f *model.File) {
	t.Helper()
	if err := r.Offer(t.Context(), number, f); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) decide(t testing.TB, q Request) Decision {
	t.Helper()
	d, err := r.Decide(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// eventually polls until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + " has not happened")
		}
	}
}

func name(i int) string { return fmt.Sprintf("stream-%d", i) }
