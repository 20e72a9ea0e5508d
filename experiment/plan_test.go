package experiment

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Every preset resolves at every scale, into configurations that are valid and runs that end.
func TestPresetsResolve(t *testing.T) {
	names, err := files.ReadDir("presets")
	if err != nil || len(names) != len(Presets()) {
		t.Fatalf("%d files, %d presets, %v", len(names), len(Presets()), err)
	}
	for _, name := range Presets() {
		p, err := LoadPreset(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasSuffix(p.Question, "?") || len(p.Methods) == 0 {
			t.Errorf("%s asks %q of %d methods", name, p.Question, len(p.Methods))
		}
		for _, scale := range Scales {
			plan, err := p.Resolve(Options{Scale: scale, Seeds: []uint64{0, 1}, Traces: "logs"})
			if err != nil {
				t.Errorf("%s: %v", scale, err)
				continue
			}
			if n := len(plan.Runs); n < 2*len(p.Methods) || plan.Runs[0].Seed != 0 || plan.Runs[n/2-1].Seed != 0 || plan.Runs[n/2].Seed != 1 {
				t.Errorf("%s at %s: %d runs of %d methods", name, scale, len(plan.Runs), len(p.Methods))
			}
			for _, r := range plan.Runs {
				for _, s := range r.Stages {
					if s.Config.Learner.Threads != 1 || s.Config.Seed != r.Seed || s.Config.Env.Name != s.Name {
						t.Errorf("%s: %s: %d threads, seed %d, task %q", name, r.Method, s.Config.Learner.Threads, s.Config.Seed, s.Config.Env.Name)
					}
				}
				if scale == "small" && r.Minutes() > 20 {
					t.Errorf("%s: %s trains for %g minutes at scale small", name, r.Method, r.Minutes())
				}
			}
			for _, test := range plan.Tests {
				cfg := protocol.DefaultConfig()
				if err := cfg.Merge(test.Name, test.Document); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				seeds, err := protocol.ParseSeeds(test.Seeds)
				if err != nil || name != "traces" && (seeds[0] < 3000 || seeds[len(seeds)-1] > 3999) {
					t.Errorf("%s: test %s has seeds %s, %v", name, test.Name, test.Seeds, err)
				}
			}
		}
	}
}

// Of the methods only those that were asked for are trained, and one that the preset lacks is refused by name.
func TestSomeMethods(t *testing.T) {
	p, err := LoadPreset("standard")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := p.Resolve(Options{Scale: "debug", Seeds: []uint64{0, 1}, Methods: []string{"a2c", "dreamer"}})
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	for _, r := range plan.Runs {
		runs = append(runs, r.Method)
	}
	if got := strings.Join(runs, " "); got != "dreamer a2c dreamer a2c" {
		t.Errorf("runs %s", got)
	}
	_, err = p.Resolve(Options{Scale: "debug", Seeds: []uint64{0}, Methods: []string{"ppo"}})
	if !errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), `no method "ppo"; it has dreamer, dreamer_long, dreamer_park`) {
		t.Errorf("an unknown method gives %v", err)
	}
}

func somePreset(t *testing.T, document string) *Preset {
	t.Helper()
	p, err := parsePreset("some", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Layers lie over one another in their order, and what belongs to the method stays where the task is replaced.
func TestLayers(t *testing.T) {
	p := somePreset(t, `
question: Which?
config: {env: {job_interval: 60, servers: 10}}
train: {env: {job_interval: 61, job_size_shape: 2}, budget: {steps: 1000, duration: 100s}}
stages:
  - name: one
  - {name: two, config: {env: {job_size_shape: 3}}}
tests:
  - {name: other, seeds: "1-2", config: &other {env: {job_size_scale: 90}}}
  - {name: third, config: {<<: *other, evaluate: {jobs: 7}}}
seeds: 5-6
methods:
  - {name: a, like: dreamer, config: {env: {reward: park}}}
  - {name: b, like: dreamer, alone: true}
scales:
  debug: {budget: 0.5, train: {env: {reward_scale: 3}}, test: {env: {job_interval: 59}}}
`)
	plan, err := p.Resolve(Options{Scale: "debug", Seeds: []uint64{7}})
	if err != nil {
		t.Fatal(err)
	}
	debug, err := protocol.PresetConfig("debug")
	if err != nil {
		t.Fatal(err)
	}
	one, two, alone := plan.Runs[0].Stages[0].Config, plan.Runs[0].Stages[1].Config, plan.Runs[2].Stages[0].Config
	if name := plan.Runs[2].Method; len(plan.Runs) != 3 || name != "b-two" {
		t.Errorf("%d runs, the last of method %s", len(plan.Runs), name)
	}
	if e := one.Env; e.JobInterval != 61 || e.JobSizeShape != 2 || e.Reward != "park" || e.RewardScale != 3 ||
		e.EpisodeJobs != debug.Env.EpisodeJobs || e.PermuteRates || e.EpisodesPerTrial != 1 || e.Tasks.JobInterval != [2]float64{} {
		t.Errorf("stage one has %+v", e)
	}
	if one.Budget.Steps != 500 || two.Budget.Steps != 1000 || alone.Budget.Steps != 500 || two.Budget.Duration.Seconds() != 50 {
		t.Errorf("budgets %v, %v, %v", one.Budget, two.Budget, alone.Budget)
	}
	if two.Env.JobSizeShape != 3 || alone.Env.Reward != "settled" {
		t.Errorf("stage two has %+v, alone %+v", two.Env, alone.Env)
	}
	saved := one // as a run that has another reward and draws its tasks
	saved.Env.Tasks.JobInterval = [2]float64{50, 90}
	if err := saved.Merge("test", plan.Tests[1].Document); err != nil {
		t.Fatal(err)
	}
	if e := saved.Env; e.JobInterval != 59 || e.JobSizeShape != 1.5 || e.JobSizeScale != 90 || e.Reward != "park" ||
		e.Tasks.JobInterval != [2]float64{} || e.Name != "third" || saved.Evaluate.Jobs != 7 || saved.Evaluate.Seeds != "5-6" {
		t.Errorf("tested on %+v, %+v", e, saved.Evaluate)
	}
	if plan.Tests[0].Seeds != "1-2" {
		t.Errorf("seeds %s", plan.Tests[0].Seeds)
	}
}

func TestBadPresets(t *testing.T) {
	const head = "question: Which?\nmethods: [{name: dreamer}]\n"
	for want, document := range map[string]string{
		"the file is empty":                   "",
		"field qestion not found":             "qestion: a\n",
		"needs a question and methods":        "question: Which?\n",
		"test \"a b\" needs a name":           head + "tests: [{name: a b}]\n",
		"stage \"a\" needs a name of its own": head + "stages: [{name: a}, {name: a}]\n",
		"scale \"huge\" is none of debug":     head + "scales: {huge: {budget: 1}}\n",
		"like \"a3c\", which is none of":      "question: Which?\nmethods: [{name: a3c}]\n",
		"did you mean env.job_interval?":      head + "config: {env: {job_intervall: 3}}\n",
		"env.servers is 1":                    head + "train: {env: {servers: 1}}\n",
		"changes model.deter":                 head + "stages: [{name: a}, {name: b, config: {model: {deter: 64}}}]\n",
		"log.swf is a trace file":             head + "config: {env: {workload: {kind: swf, file: $TRACES/log.swf}}}\n",
		"budget neither of steps nor of time": head + "train: {budget: {steps: 0, duration: 0s}}\n",
		"at most 16 letters":                  "question: Which?\nmethods: [{name: a_very_long_method}]\n",
	} {
		p, err := parsePreset("some", []byte(document))
		if err == nil {
			_, err = p.Resolve(Options{Scale: "debug", Seeds: []uint64{0}})
		}
		if !errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, err := LoadPreset("standart"); err == nil || !strings.Contains(err.Error(), "want one of standard, ") {
		t.Errorf("an unknown name: %v", err)
	}
	path := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(path, []byte(head), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := LoadPreset(path)
	if err != nil || p.Name != "mine" {
		t.Fatal(p, err)
	}
	if _, err := p.Resolve(Options{Scale: "tiny", Seeds: []uint64{0}}); err == nil || !strings.Contains(err.Error(), "debug, small, full") {
		t.Errorf("an unknown scale: %v", err)
	}
	all, err := families()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range all {
		for _, scale := range Scales {
			if _, err := protocol.PresetConfig(f.at(scale).Preset); err != nil || f.About == "" {
				t.Errorf("method %s at %s: %q, %v", name, scale, f.About, err)
			}
		}
	}
}
