package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bus plays the part of a protocol.Bus with two runs.
type bus struct {
	looks, asks atomic.Int32

	mu    sync.Mutex
	down  bool
	quiet bool // an actor has stopped
	clip  []byte
}

const hostile = `<img src=x onerror="document.title='pwned'">`

func (b *bus) AllHeartbeats(context.Context) ([]protocol.Heartbeat, error) {
	b.looks.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, errors.New("no answer")
	}
	now := time.Now()
	at := func(run string, role protocol.Role, name string, s protocol.Status) protocol.Heartbeat {
		s.Host, s.Version, s.PID, s.Started = "node-"+name, "v1.4.0", 7, now.Add(-90*time.Minute)
		return protocol.Heartbeat{Run: run, Role: role, Name: name, Status: s, Time: now.Add(-time.Second)}
	}
	list := []protocol.Heartbeat{
		at("small", protocol.RoleReplay, "replay", protocol.Status{Replay: &protocol.ReplayStatus{
			Steps: 450_000, Capacity: 500_000, Bytes: 99e6, Inserted: 1_234_567, InsertsPerSecond: 1234, SamplesPerSecond: 79_000,
			Limiter: protocol.LimiterStatus{State: protocol.LimiterActors, Waiting: "for 1232 more steps to be sampled: inserts are ahead of 64 samples per insert", Ratio: 64, Balance: 65_000, Budget: 65_536},
			Tasks: []protocol.TaskShare{
				{Task: "park", Steps: [6]uint64{1000, 9000, 90_000, 150_000}},
				{Task: "slow servers", Steps: [6]uint64{0, 0, 10_000, 120_000}},
				{Task: hostile, Steps: [6]uint64{0, 1000, 9000, 60_000}},
			},
		}}),
		at("small", protocol.RoleLearner, "learner", protocol.Status{Learner: &protocol.LearnerStatus{
			Phase: "training", Updates: 38_600, UpdatesPerSecond: 62.25, ParamVersion: 3860, EnvSteps: 1_234_567, StepLimit: 3_000_000,
			ElapsedSeconds: 5100, DurationSeconds: 7200, Staleness: 41.5, StalenessCounts: []uint64{12, 40, 66, 120, 180, 210, 160, 90, 20},
			Evaluation: &protocol.EvaluationStatus{EnvSteps: 1_200_000, Ratio: 0.943, Interval: [2]float64{0.92, 0.97}},
		}}),
	}
	for i := range 4 {
		list = append(list, at("small", protocol.RoleActor, fmt.Sprintf("a%d", i), protocol.Status{Actor: &protocol.ActorStatus{
			Actors: 1, Environments: 16, StepsPerSecond: 310, ParamVersion: 3858, Names: []string{fmt.Sprintf("a%d-0-x7k2m9qp", i)},
		}}))
	}
	list[5].Time = now.Add(-8 * time.Second)
	list[5].Status.Host = hostile
	if b.quiet {
		list = list[:5]
	}
	list = append(list, at("small", protocol.RoleDispatcher, "d", protocol.Status{Dispatch: &protocol.DispatchStatus{
		Stage: "canary", Share: 0.25, Decisions: 1_000_000, DecisionsPerSecond: 2500, Fallbacks: 120, Streams: 64, HeldStreams: 2, ParamVersion: 3800,
	}}))
	return append(list, at("other", protocol.RoleActor, "z", protocol.Status{Actor: &protocol.ActorStatus{Actors: 1, Environments: 2}})), nil
}

func (b *bus) GetCurves(_ context.Context, run string) ([]byte, uint64, error) {
	if run != "small" {
		return nil, 0, nil
	}
	h := monitor.NewHistory()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 120 {
		x := float64(10_000 * (i + 1))
		values := map[string]float64{"env/steps": x, "learner/staleness": 40 + 3*r.NormFloat64(), "train/entropy": 2.3 * math.Exp(-x/4e5), "env/mean_jct": 1500 + 3000*math.Exp(-x/1e5)}
		for k, name := range []string{"kl", "reconstruction", "reward", "continue", "critic", "actor"} {
			values["loss/"+name] = float64(k+1) * (0.3 + math.Exp(-x/2e5)) * (1 + 0.1*r.NormFloat64())
		}
		if i%6 == 0 {
			ratio := 0.94 + 6*math.Exp(-x/1e5)
			values["evaluation/dreamer_greedy"], values["evaluation/dreamer_greedy_low"], values["evaluation/dreamer_greedy_high"] = ratio, ratio*0.95, ratio*1.06
			values["evaluation/dreamer_sampled"] = ratio * 1.04
		}
		h.Add(0, values)
	}
	for name, ratio := range map[string]float64{"left": 1, "index": 0.869, "shortest_queue": 1.62, "least_load": 2.9, "random": 20} {
		h.SetLevel(name, ratio)
	}
	data, _, err := h.Encode()
	return data, 1, err
}

func (b *bus) AskView(run, _ string) error {
	b.asks.Add(1)
	return nil
}

func (b *bus) FollowViews(ctx context.Context, _, _ string, handler func([]byte)) error {
	b.mu.Lock()
	clip := b.clip
	b.mu.Unlock()
	handler(clip)
	<-ctx.Done()
	return ctx.Err()
}

// play is a clip of an episode of Park's under LEFT, with made-up probabilities and
// predictions.
func play(t testing.TB, source string, steps int) *view.Clip {
	t.Helper()
	var sim loadbalance.Sim
	if err := sim.Reset(loadbalance.DefaultRates(), steps, loadbalance.NewParkSource(5, 55, 1.5, 100)); err != nil {
		t.Fatal(err)
	}
	left, _ := loadbalance.NewPolicy("left", loadbalance.PolicyOptions{})
	index, _ := loadbalance.NewPolicy("index", loadbalance.PolicyOptions{})
	c := &view.Clip{Format: view.Format, Run: "small", Actor: "a0-0-x7k2m9qp", Source: source, Task: "park", Version: 3860, Servers: 10, Scale: 100}
	for !sim.Done() {
		f := view.Shoot(&sim, left, index)
		f.Action = f.LEFT
		if len(c.Frames)%7 == 3 {
			f.Action = f.Index
		}
		f.Probs = make([]float32, 10)
		for i := range f.Probs {
			f.Probs[i] = 0.02
		}
		f.Probs[f.LEFT] += 0.5
		f.Probs[f.Index] += 0.3
		c.Frames = append(c.Frames, f)
		if _, _, _, err := sim.Step(f.Action); err != nil {
			t.Fatal(err)
		}
	}
	for at := view.ForecastSteps - 1; at+view.ForecastSteps < steps; at += view.ForecastSteps {
		f := view.Forecast{At: at, Paths: make([][]float64, 4)}
		for s := range view.ForecastSteps {
			var low, middle, high []float64
			sum := 0.0
			for _, load := range c.Frames[at+1+s].Loads {
				spread := float64(s) * 40
				low, middle, high = append(low, max(0, load*0.9-spread)), append(middle, load), append(high, load*1.1+spread)
				sum += load
			}
			f.Low, f.Middle, f.High = append(f.Low, low), append(f.Middle, middle), append(f.High, high)
			for p := range f.Paths {
				f.Paths[p] = append(f.Paths[p], sum*(1+float64(p-2)*0.005*float64(s)))
			}
		}
		c.Forecasts = append(c.Forecasts, f)
	}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve starts a dashboard of the two runs, with a recorded episode and an experiment.
func serve(t testing.TB, token string) (*bus, string) {
	t.Helper()
	b, dir := &bus{}, t.TempDir()
	var err error
	if b.clip, err = json.Marshal(play(t, "live", view.ClipFrames)); err != nil {
		t.Fatal(err)
	}
	recorded := play(t, "recorded", 300)
	recorded.Ratio = 0.93
	if err := view.WriteFile(filepath.Join(dir, "seed-3000"+view.Extension), recorded); err != nil {
		t.Fatal(err)
	}
	writeExperiment(t, filepath.Join(dir, "experiment"))
	listener, err := Listen("127.0.0.1:0", token)
	if err != nil {
		t.Fatal(err)
	}
	server := New(Config{
		Bus: b, Token: token, Run: "small", Episodes: dir, Experiment: filepath.Join(dir, "experiment"),
		Now: time.Now, Log: hclog.NewNullLogger(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b, "http://" + listener.Addr().(*net.TCPAddr).String()
}

// writeExperiment has two methods on a sequence of three tasks.
func writeExperiment(t testing.TB, dir string) {
	t.Helper()
	tests := []string{"park", "light", "bursts"}
	line := func(method string, seed, stage int, after, test, mode string, jct float64) string {
		return fmt.Sprintf(`{"method":%q,"seed":%d,"stage":%d,"after":%q,"test":%q,"inside":true,"mode":%q,"episode":1,"steps":1000,"minutes":1,"seeds":"1-4","mean_jct":[%g,%g,%g,%g]}`+"\n",
			method, seed, stage, after, test, mode, jct, jct, jct, jct)
	}
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var rules string
	for _, test := range tests {
		rules += line("left", 0, 1, "", test, "rule", 1000)
	}
	write(filepath.Join(dir, "rules.jsonl"), rules)
	for m, method := range []string{"dreamer", "a2c"} {
		for seed := 1; seed <= 2; seed++ {
			var text string
			for stage, after := range tests {
				for k, test := range tests {
					jct := 2000.0
					if k <= stage {
						jct = 900 + 150*float64(stage-k)*float64(m+1)
					}
					text += line(method, seed, stage+1, after, test, "greedy", jct)
				}
			}
			write(filepath.Join(dir, method, fmt.Sprintf("seed-%d", seed), "scores.jsonl"), text)
		}
	}
}
