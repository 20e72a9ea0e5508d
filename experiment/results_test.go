package experiment

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func someResult() Result {
	return Result{
		Method: "dreamer", Seed: 3, Stage: 2, After: "bursts", Test: "plain", Inside: true, Mode: Greedy, Episode: 4,
		Steps: 150_000, Minutes: 12.5, Seeds: "3000-3001,7", MeanJCT: []float64{1500.25, 900, 1e6},
		Model: map[string]float64{"kl": 1.5},
	}
}

func TestResultsRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), ScoresFile)
	if got, err := ReadResultsFile(path); got != nil || err != nil {
		t.Fatalf("of no file: %v, %v", got, err)
	}
	a, b := someResult(), someResult()
	b.Mode, b.Model = Sampled, nil
	if err := AppendResults(path, a); err != nil {
		t.Fatal(err)
	}
	// A crash while a line was written.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"method":"drea`)
	f.Close()
	if got, err := ReadResultsFile(path); err != nil || !reflect.DeepEqual(got, []Result{a}) {
		t.Fatalf("after a crash: %v, %v", got, err)
	}
	if err := AppendResults(path, b, a); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadResultsFile(path); err != nil || !reflect.DeepEqual(got, []Result{a, b, a}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestBadResultsAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), ScoresFile)
	for want, spoil := range map[string]func(*Result){
		"method":   func(r *Result) { r.Method = "../up" },
		"test":     func(r *Result) { r.Test = "" },
		"after":    func(r *Result) { r.After = "a b" },
		"mode":     func(r *Result) { r.Mode = "lucky" },
		"episode":  func(r *Result) { r.Episode = 0 },
		"minutes":  func(r *Result) { r.Minutes = -1 },
		"seeds":    func(r *Result) { r.Seeds = "9-1" },
		"3 seeds":  func(r *Result) { r.MeanJCT = r.MeanJCT[:2] },
		"seed 7 ":  func(r *Result) { r.MeanJCT[2] = 0 },
		"\"loss\"": func(r *Result) { r.Model["loss"] = -1 / (r.MeanJCT[1] - 900) },
	} {
		r := someResult()
		spoil(&r)
		if err := AppendResults(path, someResult(), r); !errors.Is(err, ErrResult) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("something was written")
	}
	for _, line := range []string{"", "{}", `{"method":1}`, `{"unknown":1}`, "[] []"} {
		if _, err := ReadResults(strings.NewReader(line + "\n")); !errors.Is(err, ErrResult) || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadJob(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	job := Job{Method: "dreamer", Seed: 1, Commands: []string{"dreamfleet train"}, Minutes: 2, Started: now, Finished: &now}
	if err := job.Write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadJob(dir); err != nil || !reflect.DeepEqual(got, job) {
		t.Errorf("got %v, %v", got, err)
	}
	m := Manifest{
		Name: "standard", Methods: []string{"dreamer"}, Stages: []string{"park"}, Seeds: []uint64{0, 1}, Started: now,
		Tests: []TestInfo{{Name: "park", Inside: true, Seeds: "3000-3999", Episodes: 1}},
	}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadManifest(dir); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("got %v, %v", got, err)
	}
	m.Tests[0].Seeds = "all"
	if err := m.Write(dir); !errors.Is(err, ErrResult) {
		t.Errorf("seeds: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, JobFile), []byte(`{"method":"a","minutes":-1}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadJob(dir); !errors.Is(err, ErrResult) || !strings.Contains(err.Error(), JobFile) {
		t.Errorf("minutes: %v", err)
	}
}

// Whatever is read is either refused or written again as it was.
func FuzzReadResults(f *testing.F) {
	line, err := json.Marshal(someResult())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, '\n'))
	f.Add(append(append(line, '\n'), line[:20]...))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		results, err := ReadResults(bytes.NewReader(content))
		if err != nil {
			if results != nil {
				t.Fatal("results with an error")
			}
			return
		}
		if len(results) == 0 {
			return
		}
		path := filepath.Join(t.TempDir(), ScoresFile)
		if err := AppendResults(path, results...); err != nil {
			t.Fatal(err)
		}
		again, err := ReadResultsFile(path)
		if err != nil || len(again) != len(results) {
			t.Fatalf("%d results, then %d, %v", len(results), len(again), err)
		}
	})
}
