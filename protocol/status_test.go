package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// However much there is to say, a heartbeat fits its bucket and says the rest.
func TestStatusIsBounded(t *testing.T) {
	s := Status{
		Actor:   &ActorStatus{Steps: 1},
		Replay:  &ReplayStatus{Steps: 2},
		Learner: &LearnerStatus{Updates: 3, Metrics: map[string]float64{"loss/kl": math.NaN(), "loss/reward": math.Inf(1)}},
	}
	for i := range 1000 {
		s.Actor.Names = append(s.Actor.Names, fmt.Sprintf("%031d", i))
		s.Replay.Tasks = append(s.Replay.Tasks, TaskShare{Task: strings.Repeat("<", 256), Steps: [len(AgeBounds) + 1]uint64{math.MaxUint64 / 1000}})
		s.Learner.Metrics[fmt.Sprintf("%s/%04d", strings.Repeat("m", 300), i)] = 1.0 / 3
	}
	text, err := s.encode()
	if err != nil || len(text) > maxHeartbeat {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	got, err := decodeStatus(text)
	if err != nil || got.Actor.Steps != 1 || got.Replay.Steps != 2 || got.Learner.Updates != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	if len(s.Actor.Names) != 1000 || len(s.Replay.Tasks) != 1000 || len(s.Learner.Metrics) != 1002 {
		t.Error("encoding has changed the status")
	}

	s.Learner.Metrics = map[string]float64{"a": 1, "b": math.NaN()}
	s.Replay.Tasks = []TaskShare{{Task: "park", Steps: [len(AgeBounds) + 1]uint64{5, 0, 1}}}
	for i := range maxStatusTasks + 3 {
		s.Replay.Tasks = append(s.Replay.Tasks, TaskShare{Task: fmt.Sprint(i), Steps: [len(AgeBounds) + 1]uint64{1}})
	}
	if text, err = s.encode(); err != nil {
		t.Fatal(err)
	}
	if got, err = decodeStatus(text); err != nil {
		t.Fatal(err)
	}
	if m := got.Learner.Metrics; len(m) != 1 || m["a"] != 1 {
		t.Errorf("metrics are %v", m)
	}
	tasks := got.Replay.Tasks
	if len(tasks) != maxStatusTasks || tasks[0].Total() != 6 || tasks[maxStatusTasks-1].Task != "others" || tasks[maxStatusTasks-1].Total() != 5 {
		t.Errorf("tasks are %v", tasks)
	}
}

// A reader takes what it knows of a newer or older writer.
func TestStatusOfOtherVersions(t *testing.T) {
	s, err := decodeStatus([]byte(`{"host":"h","pid":7,"news":{"a":1},"replay":{"steps":3,"colour":"red"}}`))
	if err != nil || s.Host != "h" || s.PID != 7 || s.Replay.Steps != 3 || s.Learner != nil {
		t.Errorf("%+v, %v", s, err)
	}
	for text, want := range map[string]error{
		`{`:                                 ErrCorrupt,
		`{"pid":"no"}`:                      ErrCorrupt,
		strings.Repeat(" ", maxHeartbeat+1): ErrTooLarge,
	} {
		if _, err := decodeStatus([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.20q: %v, want %v", text, err, want)
		}
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"host":"h","started":"2026-01-02T03:04:05Z","actor":{"names":["a"]},"bus":{"Refused":{"corrupt":1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeStatus(data)
		if err != nil {
			return
		}
		text, err := s.encode()
		if err != nil || len(text) > maxHeartbeat || !json.Valid(text) {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	})
}

func TestRate(t *testing.T) {
	var r Rate
	now := time.Unix(1e9, 0)
	var got []float64
	for _, count := range []uint64{100, 110, 130, 130, 130, 130, 130, 5, 7, 9, 11, 13} {
		got = append(got, r.Per(now, count))
		now = now.Add(2 * time.Second)
	}
	want := "[0 5 7.5 5 3.75 2.5 0 0 0 0 0 1]"
	if fmt.Sprint(got) != want {
		t.Errorf("rates are %v, want %s", got, want)
	}
	if rate := r.Per(now.Add(-time.Hour), 100); rate != 0 {
		t.Errorf("a clock that went back gives %v", rate)
	}
}
