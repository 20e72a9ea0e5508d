package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/dreamfleet/dreamfleet/protocol"
)

var now = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// beats are those of a healthy run with so many actors.
func beats(run string, actors int) []protocol.Heartbeat {
	at := func(role protocol.Role, name string, s protocol.Status) protocol.Heartbeat {
		s.Host, s.Version, s.PID, s.Started = "box-"+name, "v1", 7, now.Add(-90*time.Minute)
		return protocol.Heartbeat{Run: run, Role: role, Name: name, Status: s, Time: now.Add(-2 * time.Second)}
	}
	all := []protocol.Heartbeat{
		at(protocol.RoleReplay, "replay", protocol.Status{Replay: &protocol.ReplayStatus{
			Steps: 50_000, Capacity: 100_000, Inserted: 60_000, InsertsPerSecond: 1234, SamplesPerSecond: 79_000,
			Limiter: protocol.LimiterStatus{State: protocol.LimiterActors, Waiting: "for 12 more steps to be sampled"},
			Tasks: []protocol.TaskShare{
				{Task: "park", Steps: [len(protocol.AgeBounds) + 1]uint64{1000, 9000, 20_000}},
				{Task: "slow", Steps: [len(protocol.AgeBounds) + 1]uint64{0, 0, 20_000}},
			},
		}}),
		at(protocol.RoleLearner, "learner", protocol.Status{Learner: &protocol.LearnerStatus{
			Phase: "training", Updates: 1000, UpdatesPerSecond: 62.25, ParamVersion: 100, EnvSteps: 61_000, StepLimit: 300_000,
			ElapsedSeconds: 3600, DurationSeconds: 7200, Staleness: 3.5,
			Metrics:    map[string]float64{"loss/kl": 1.25, "loss/reward": 0.5, "learner/staleness": 3.5},
			Evaluation: &protocol.EvaluationStatus{EnvSteps: 60_000, Ratio: 0.953, Interval: [2]float64{0.94, 0.97}},
		}}),
	}
	for i := range actors {
		all = append(all, at(protocol.RoleActor, fmt.Sprintf("a%02d", i), protocol.Status{Actor: &protocol.ActorStatus{
			Actors: 1, Environments: 16, StepsPerSecond: 100, ParamVersion: 99,
		}}))
	}
	return all
}

func text(t *testing.T, s State, screen Screen) string {
	t.Helper()
	var out bytes.Buffer
	if err := WriteText(&out, s, screen); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestHealthyRun(t *testing.T) {
	s := Of(beats("small", 2), now)
	if r := s.Runs[0]; r.Health != "ok" || r.StepsPerSecond != 200 || r.EnvSteps != 61_000 || len(r.Hosts) != 4 ||
		r.Processes[0].Role != protocol.RoleLearner || int(r.SecondsLeft) != 193 {
		t.Errorf("%+v", r)
	}
	const want = `small  training  1h00m  3m13s left  ok  (15:04:05)
  environment  61,000 steps of 300,000, 200/s
  training     1,000 updates, 62.2/s; parameters 100, replayed 3.5 versions old
  losses       kl 1.25, reward 0.5
  evaluation   0.953 x LEFT (0.940 to 0.970) at 60,000 steps
  replay       50,000 of 100,000 steps, 1.23k/s in, 79k/s out
  limiter      actors wait for 12 more steps to be sampled
  stored       park 60%, slow 40%; by age <1k 2% <10k 18% <100k 80%
  ROLE     NAME     HOST         VERSION  UP     HEARD  RATE            PARAMS  SAYS
  learner  learner  box-learner  v1       1h30m  2s     62.2 updates/s  100     training
  replay   replay   box-replay   v1       1h30m  2s     1.23k steps/s           actors wait for 12 more steps to be sampled
  actor    a00      box-a00      v1       1h30m  2s     100 steps/s     99      16 environments
  actor    a01      box-a01      v1       1h30m  2s     100 steps/s     99      16 environments
`
	if got := text(t, s, Screen{}); got != want {
		t.Errorf("status is\n%s\nwant\n%s", got, want)
	}
}

// A dispatcher is a process like others. A run that is only dispatched by has been trained, and lacks nobody.
func TestDispatcher(t *testing.T) {
	beat := beats("small", 0)[0]
	beat.Role, beat.Name = protocol.RoleDispatcher, "d"
	beat.Status.Replay, beat.Status.Dispatch = nil, &protocol.DispatchStatus{
		Stage: "active", Share: 1, Decisions: 12_345, DecisionsPerSecond: 250, Fallbacks: 17, Streams: 40, HeldStreams: 3, ParamVersion: 99,
	}
	r := Of([]protocol.Heartbeat{beat}, now).Runs[0]
	if r.Health != "ok" {
		t.Errorf("%+v", r)
	}
	const row = "dispatcher  d     box-replay  v1       1h30m  2s     250 decisions/s  99      active, 12,345 decisions, 17 fallbacks, 3 of 40 streams held"
	if got := text(t, Of([]protocol.Heartbeat{beat}, now), Screen{}); !strings.Contains(got, row) {
		t.Errorf("status is\n%s", got)
	}
	beat.Status.Dispatch.Holds, beat.Status.Dispatch.AuditFailed = "cost, parameters", true
	got := text(t, Of(append(beats("small", 1), beat), now), Screen{})
	for _, want := range []string{"  all held by cost, parameters; active", "! dispatcher d: all streams are held by cost, parameters", "! dispatcher d cannot record its decisions"} {
		if !strings.Contains(got, want) {
			t.Errorf("status is\n%s, without %q", got, want)
		}
	}
	other := beat
	other.Name = "e"
	if got := text(t, Of([]protocol.Heartbeat{beat, other}, now), Screen{}); !strings.Contains(got, "! 2 processes are dispatcher, there must be one") {
		t.Errorf("status is\n%s", got)
	}
}

// Each thing that somebody should look at is said, and nothing else.
func TestProblems(t *testing.T) {
	for want, change := range map[string]func([]protocol.Heartbeat) []protocol.Heartbeat{
		"actor a00 was last heard 8 s ago": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[2].Time = now.Add(-8 * time.Second)
			return b
		},
		"no replay is running":  func(b []protocol.Heartbeat) []protocol.Heartbeat { return b[1:] },
		"no learner is running": func(b []protocol.Heartbeat) []protocol.Heartbeat { return append(b[:1:1], b[2:]...) },
		"no actor is running":   func(b []protocol.Heartbeat) []protocol.Heartbeat { return b[:2] },
		"2 processes are replay, there must be one": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			again := b[0]
			again.Name = "other"
			return append(b, again)
		},
		"processes are of 2 versions of the program": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[2].Status.Version = "v2"
			return b
		},
		"actors have dropped 3 chunks": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[2].Status.Actor.Dropped = 3
			return b
		},
		"actors have refused 1 versions of the parameters": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[2].Status.Actor.ParamsRejected = 1
			return b
		},
		"3 messages could not be read": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[0].Status.Bus.DeadLettered = map[string]uint64{"corrupt": 1}
			b[1].Status.Bus.Refused = map[string]uint64{"version": 2}
			return b
		},
		"the bus has denied 5 times": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[0].Status.Bus.Denied = 5
			return b
		},
		"4 updates were not finite and skipped": func(b []protocol.Heartbeat) []protocol.Heartbeat {
			b[1].Status.Learner.Metrics["learner/skipped"] = 4
			return b
		},
	} {
		r := Of(change(beats("small", 1)), now).Runs[0]
		if r.Health != "attention" || len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], want) {
			t.Errorf("health is %s, problems are %q, want %q", r.Health, r.Problems, want)
		}
	}
}

// Whatever heartbeats say and however many there are, the text fits its screen.
func TestTextFitsTheScreen(t *testing.T) {
	list := beats("small", 200)
	list[100].Time = now.Add(-9 * time.Second)
	for i := range list {
		list[i].Status.Host = "\x1b[2J\ttab\nline" + strings.Repeat("w", 100)
		list[i].Status.Version = "\r\x07"
	}
	list[0].Status.Replay.Limiter = protocol.LimiterStatus{State: "new\x1b", Waiting: "\x1b]0;title\x07"}
	list[0].Status.Replay.Tasks[0].Task = "ta\tsk\n"
	got := text(t, Of(list, now), Screen{Width: 80, Rows: 24})
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) > 26 || !strings.Contains(got, "a98 ") || !strings.Contains(got, " more\n") {
		t.Errorf("%d lines:\n%s", len(lines), got)
	}
	for _, line := range lines {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
		for _, r := range line {
			if !unicode.IsPrint(r) {
				t.Errorf("line %q has %q", line, r)
			}
		}
	}
}

func TestStateAsJSON(t *testing.T) {
	s := Of(append(beats("b", 1), beats("a", 0)...), now)
	if s.Runs[0].Name != "a" || s.Runs[0].Health != "attention" || s.Runs[1].Health != "ok" {
		t.Fatalf("runs %+v", s.Runs)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back State
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, s) {
		t.Errorf("%+v comes back as %+v", s, back)
	}
	if got := text(t, Of(nil, now), Screen{}); !strings.HasPrefix(got, "No process") {
		t.Errorf("no run is %q", got)
	}
	data, err = json.Marshal(Of(nil, now))
	if err != nil || !strings.Contains(string(data), `"runs":[]`) {
		t.Errorf("no run is %s, %v", data, err)
	}
}
