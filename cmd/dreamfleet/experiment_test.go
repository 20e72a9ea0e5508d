package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// An experiment as a user runs it: two methods, trained and tested by processes of their own.
func TestExperimentRuns(t *testing.T) {
	t.Setenv(asCommand, "1")
	t.Setenv("DREAMFLEET_NATS_URL", "")
	dir := filepath.Join(t.TempDir(), "hidden")
	args := []string{"experiment", "run", "hidden-rates", "--scale", "debug", "--seeds", "1", "--out", dir}
	code, out, stderr := execute(t, args...)
	if code != exitOK {
		t.Fatalf("exit code %d: %s\n%s", code, stderr, out)
	}
	m, err := experiment.ReadManifest(dir)
	if err != nil || m.Machine.Cores < 1 || m.Version == "" || !slices.Contains(m.Rules, misledLEFT) {
		t.Errorf("manifest %+v, %v", m, err)
	}
	rules, err := experiment.ReadResultsFile(filepath.Join(dir, experiment.RulesFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range m.Methods {
		job := experiment.JobDir(dir, method, 0)
		record, err := experiment.ReadJob(job)
		if err != nil || record.Finished == nil || record.Steps < 1500 || record.CPUSeconds <= 0 {
			t.Errorf("job %+v, %v", record, err)
		}
		results, err := experiment.ReadResultsFile(filepath.Join(job, experiment.ScoresFile))
		if err != nil || len(results) != 2*2*4 { // tests, modes, episodes
			t.Fatalf("%d results, %v", len(results), err)
		}
		for _, r := range results {
			paired := slices.ContainsFunc(rules, func(l experiment.Result) bool {
				return l.Method == "left" && l.Test == r.Test && l.Episode == r.Episode && len(l.MeanJCT) == len(r.MeanJCT)
			})
			if measured := r.Mode == experiment.Greedy && strings.HasPrefix(method, "dreamer"); !paired || measured != (r.Model["kl"] > 0) {
				t.Errorf("result %+v, paired with LEFT %v", r, paired)
			}
		}
		curve, err := os.ReadFile(filepath.Join(job, experiment.CurveFile))
		if err != nil || strings.Count(string(curve), "\n") < 2 {
			t.Errorf("curve %s, %v", curve, err)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "dreamer", "seed-0", "log.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := execute(t, args...); code != exitOK {
		t.Errorf("again: exit code %d: %s", code, stderr)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "dreamer", "seed-0", "log.txt")); err != nil || string(after) != string(before) {
		t.Errorf("what was done is done again: %v", err)
	}

	for line, want := range map[string]string{
		"list":                          "hidden-rates",
		"show traces":                   "Parallel Workloads Archive",
		"run standart":                  "unknown experiment \"standart\"",
		"run traces":                    "NASA-iPSC-1993-3.1-cln.swf.gz is a trace file; name its folder by --traces",
		"run standard --scale medium":   "debug, small, full",
		"run standard --seeds 0":        "--seeds is 0",
		"run hidden-rates --out " + dir: "at scale debug; give another --out",
	} {
		code, out, stderr := execute(t, strings.Fields("experiment "+line)...)
		if failed := strings.HasPrefix(line, "run"); failed != (code == exitUsage) || !strings.Contains(out+stderr, want) {
			t.Errorf("experiment %s: exit code %d: %s%s", line, code, out, stderr)
		}
	}
}

// A run goes on in another environment only where it is asked to and where the networks fit, and it is evaluated there.
func TestRunChangesItsTask(t *testing.T) {
	t.Setenv("DREAMFLEET_NATS_URL", "")
	dir := filepath.Join(t.TempDir(), "run")
	trainTiny(t, dir, "--steps", "800", "--set", "env.observe_mask=true", "--set", "env.name=first")
	updates := newest(t, dir).Manifest.Updates
	change := []string{"train", "--run", dir, "--steps", "1600", "--set", "env.name=second", "--set", "env.tasks.servers=[4,8]"}
	if code, _, stderr := execute(t, change...); code != exitUsage || !strings.Contains(stderr, "--change-task") {
		t.Errorf("without the flag: exit code %d: %s", code, stderr)
	}
	for set, want := range map[string]string{
		"env.servers=6":       "keep env.servers",
		"model.deter=64":      "model.deter: 32 -> 64",
		"env.load_scales=[1]": "keep env.servers, env.load_scales",
	} {
		more := append(slices.Clone(change), "--change-task", "--set", set)
		if set == "env.servers=6" {
			more = append(more, "--set", "env.service_rates=[]", "--set", "env.tasks.servers=[4,6]")
		}
		if code, _, stderr := execute(t, more...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", set, code, stderr)
		}
	}
	if code, out, stderr := execute(t, append(change, "--change-task")...); code != exitOK {
		t.Fatalf("exit code %d: %s\n%s", code, stderr, out)
	}
	if now := newest(t, dir).Manifest.Updates; now <= updates {
		t.Errorf("%d updates before, %d after the change", updates, now)
	}
	cfg, err := savedConfig(dir)
	if err != nil || cfg.Env.Name != "second" || cfg.Env.Tasks.Servers != [2]int{4, 8} {
		t.Errorf("saved %+v, %v", cfg.Env, err)
	}
	if last, err := monitor.LastMetrics(dir); err != nil || last.Values["env/steps"] < 1600 || !(last.Values[experiment.MetricSeconds] > 0) {
		t.Errorf("metrics end with %+v, %v", last, err)
	}

	// Evaluated on the first task again, on one with other servers, and on a whole trace by date.
	trace := filepath.Join(t.TempDir(), "jobs.csv")
	text := "arrival,size\n"
	for i := range 120 {
		text += fmt.Sprintf("%d,%d\n", 50*i, 200+i)
	}
	if err := os.WriteFile(trace, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, sets := range map[string][]string{
		"first": {"env.tasks.servers=[0,0]"},
		"two":   {"env.tasks.servers=[2,2]"},
		"trace": {"env.tasks={servers: [0,0], job_interval: [0,0]}", "env.workload={kind: csv, file: " + trace + "}", "evaluate.share=1", "evaluate.cut=true"},
	} {
		args := []string{"evaluate", "--run", dir, "--results", "--world-model", "--seeds", "0-1", "--jobs", "30"}
		for _, set := range append(sets, "env.name="+name) {
			args = append(args, "--set", set)
		}
		code, out, stderr := execute(t, args...)
		results, err := experiment.ReadResults(strings.NewReader(out))
		if code != exitOK || err != nil || len(results) != 4 || results[0].Test != name || !(results[0].Model["kl"] > 0) {
			t.Errorf("%s: exit code %d: %s; %+v, %v", name, code, stderr, results, err)
		}
		if _, again, _ := execute(t, args...); again != out {
			t.Errorf("%s: other scores the second time", name)
		}
	}
	for set, want := range map[string]string{
		"model.deter=64": "an evaluation changes keys of env and evaluate only",
		"env.servers=12": "keep env.servers",
	} {
		args := []string{"evaluate", "--run", dir, "--set", set}
		if set == "env.servers=12" {
			args = append(args, "--set", "env.service_rates=[]")
		}
		if code, _, stderr := execute(t, args...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", set, code, stderr)
		}
	}
	if code, out, stderr := execute(t, "evaluate", "--rules", "--seeds", "1-2", "--jobs", "20", "--set", "env.permute_rates=true"); code != exitOK || !strings.Contains(out, misledLEFT) || strings.Contains(out, policyName(protocol.Dreamer, true)) {
		t.Errorf("rules: exit code %d: %s%s", code, out, stderr)
	}
	var report map[string]any
	if code, out, _ := execute(t, "evaluate", "--run", dir, "--set", "env.job_interval=70", "--json"); code != exitOK || json.Unmarshal([]byte(out), &report) != nil {
		t.Errorf("--json: exit code %d", code)
	}
}
