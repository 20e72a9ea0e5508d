package deploy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// One table says everything: what hosts say, what the bus says, and where they differ.
func TestTable(t *testing.T) {
	v, _ := example(t)
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	reports := []Report{
		{Host: v.Hosts[0], Have: Have{Versions: map[string]string{"bin/new": "v2"}, Units: map[string]State{
			"nats": {Running: true, PID: 10, Uptime: 50 * time.Hour, Binary: "bin/new"}, "learner": {Binary: "bin/new"},
		}}},
		{Host: v.Hosts[1], Have: Have{Units: map[string]State{
			"actor-1": {Running: true, PID: 11, Uptime: 61 * time.Second}, "actor-2": {Code: 1}, "actor-3": {Code: -1}, "actor-10": {Running: true, PID: 12},
		}}},
		{Host: v.Hosts[2], Err: errors.New("away")},
	}
	beats := []protocol.Heartbeat{
		{Role: protocol.RoleLearner, Name: "learner", Time: ago(2 * time.Second), Status: protocol.Status{Learner: &protocol.LearnerStatus{UpdatesPerSecond: 12.34, ParamVersion: 40}}},
		{Role: protocol.RoleActor, Name: "worker-a-1", Time: ago(3 * time.Second), Status: protocol.Status{Actor: &protocol.ActorStatus{StepsPerSecond: 1000, ParamVersion: 37}}},
		{Role: protocol.RoleActor, Name: "worker-b-1", Time: ago(time.Second), Status: protocol.Status{Actor: &protocol.ActorStatus{Waiting: "the learner"}}},
		{Role: protocol.RoleActor, Name: "laptop", Time: ago(time.Second), Status: protocol.Status{Host: "laptop", Version: "v1", PID: 7, Started: ago(time.Hour), Actor: &protocol.ActorStatus{ParamVersion: 40}}},
	}
	var b strings.Builder
	if err := WriteTable(&b, v, reports, beats, now); err != nil {
		t.Fatal(err)
	}
	want := `
HOST      ROLE          STATE             PID  UP     VERSION  RATE             STALENESS       HEARTBEAT
head      nats          running           10   2d02h  v2       -                -               -
head      replay        STOPPED           -    -      -        -                -               -
head      learner       ended             -    -      v2       12.3 updates/s   -               2s ago
worker-a  actor-1       running           11   1m01s  -        1000 steps/s     3               3s ago
worker-a  actor-2       FAILED with 1     -    -      -        -                -               -
worker-a  actor-3       LOST              -    -      -        -                -               -
worker-a  actor-10      running, surplus  12   0s     -        -                -               -
worker-b  actor-1       UNREACHABLE       -    -      -        0 steps/s, held  acts at random  1s ago
laptop    actor laptop  joined by itself  7    1h00m  v1       0 steps/s        0               1s ago
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got%s\nwant%s", got, want)
	}
}

// Each shard of a replay is a process of its own, which is heard under its own name.
func TestTableOfShards(t *testing.T) {
	v, _ := exampleOf(t, "divided.yaml")
	v.Hosts[1].Name = "a-name-of-twenty-seven-lett"
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	reports := []Report{{Host: v.Hosts[1], Have: Have{Units: map[string]State{"replay-2": {Running: true, PID: 10}, "replay": {Running: true, PID: 9}}}}}
	beats := []protocol.Heartbeat{
		{Role: protocol.RoleReplay, Name: "a-name-of-twenty-seven-le-2", Time: now, Status: protocol.Status{Replay: &protocol.ReplayStatus{InsertsPerSecond: 7}}},
	}
	var b strings.Builder
	if err := WriteTable(&b, v, reports, beats, now); err != nil {
		t.Fatal(err)
	}
	want := `
HOST                         ROLE      STATE             PID  UP  VERSION  RATE         STALENESS  HEARTBEAT
a-name-of-twenty-seven-lett  replay    running, surplus  9    0s  -        -            -          -
a-name-of-twenty-seven-lett  replay-2  running           10   0s  -        7 inserts/s  -          0s ago
a-name-of-twenty-seven-lett  replay-3  STOPPED           -    -   -        -            -          -
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got%s\nwant%s", got, want)
	}
}

// Of several learners the one leads whose process the heartbeat names.
func TestTableOfLearners(t *testing.T) {
	v, _ := example(t)
	v.Hosts[1].Roles, v.Hosts[1].Actors, v.Hosts[2].Roles, v.Hosts[2].Actors = []string{RoleLearner}, 0, []string{RoleLearner}, 0
	v.Hosts[0].Roles = v.Hosts[1].Roles
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	unit := func(pid int, up time.Duration) Have {
		return Have{Units: map[string]State{"learner": {Running: true, PID: pid, Uptime: up}}}
	}
	reports := []Report{{Host: v.Hosts[0], Have: unit(40, time.Minute)}, {Host: v.Hosts[1], Have: unit(40, time.Hour)}, {Host: v.Hosts[2], Have: unit(41, time.Hour)}}
	beat := func(pid int) []protocol.Heartbeat {
		return []protocol.Heartbeat{{Role: protocol.RoleLearner, Name: "learner", Time: now, Status: protocol.Status{
			Host: "elsewhere", PID: pid, Started: now.Add(-time.Hour - time.Second), Learner: &protocol.LearnerStatus{UpdatesPerSecond: 5},
		}}}
	}
	table := func(beats []protocol.Heartbeat) string {
		var b strings.Builder
		if err := WriteTable(&b, v, reports, beats, now); err != nil {
			t.Fatal(err)
		}
		return "\n" + b.String()
	}
	for _, test := range []struct{ got, want string }{
		{table(beat(40)), `
HOST      ROLE     STATE               PID  UP     VERSION  RATE           STALENESS  HEARTBEAT
head      learner  running, stands by  40   1m00s  -        -              -          -
worker-a  learner  running, leads      40   1h00m  -        5.0 updates/s  -          0s ago
worker-b  learner  running, stands by  41   1h00m  -        -              -          -
`},
		{table(beat(99)), `
HOST       ROLE             STATE             PID  UP     VERSION  RATE           STALENESS  HEARTBEAT
head       learner          running           40   1m00s  -        -              -          -
worker-a   learner          running           40   1h00m  -        -              -          -
worker-b   learner          running           41   1h00m  -        -              -          -
elsewhere  learner learner  joined by itself  99   1h00m  -        5.0 updates/s  -          0s ago
`},
	} {
		if test.got != test.want {
			t.Errorf("got%s\nwant%s", test.got, test.want)
		}
	}
	reports[2] = Report{Host: v.Hosts[2], Err: errors.New("away")}
	if got := table(beat(99)); !strings.Contains(got, "worker-b  learner  UNREACHABLE         -    -      -        5.0 updates/s") {
		t.Errorf("the leader is on the host that is away:%s", got)
	}
}
