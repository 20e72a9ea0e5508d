package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// resolved gives flags to a command and resolves them.
func resolved(t *testing.T, env map[string]string, args ...string) (protocol.Config, string, error) {
	t.Helper()
	var flags configFlags
	cmd := &cobra.Command{Use: "test"}
	flags.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return flags.resolve(cmd, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})
}

func TestFlagsLieOverFileOverPreset(t *testing.T) {
	t.Chdir(t.TempDir())
	file := "learner: {batch_size: 6, batch_length: 16}\nmodel: {layers: 4}\nseed: 3\nbus: {url: nats://file}\n"
	if err := os.WriteFile("try.yaml", []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, dir, err := resolved(t, map[string]string{"DREAMFLEET_NATS_URL": "nats://environment"},
		"--preset", "debug", "--config", "try.yaml", "--set", "learner.batch_size=8", "--set", "log.level=trace",
		"--seed", "7", "--steps", "100", "--duration", "1m", "--log-level", "warn", "--lockstep")
	if err != nil {
		t.Fatal(err)
	}
	want, err := protocol.PresetConfig("debug")
	if err != nil {
		t.Fatal(err)
	}
	want.Learner.BatchSize, want.Learner.BatchLength, want.Model.Layers = 8, 16, 4
	want.Seed, want.Budget, want.Lockstep = 7, protocol.BudgetSection{Steps: 100, Duration: time.Minute}, true
	want.Bus.URL, want.Log.Level, want.Run = "nats://environment", "warn", "debug"
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
	if dir != filepath.Join("runs", "debug") {
		t.Errorf("run folder %s", dir)
	}
}

func TestRunFolderAndName(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("my try.yaml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ args, dir, run string }{
		{"", "runs/small", "small"},
		{"--preset 1m", "runs/1m", "1m"},
		{"--config|my try.yaml", "runs/my try", "my-try"},
		{"--run /data/a.b/", "/data/a.b", "a-b"},
		{"--run x --set run=other", "x", "other"},
		{"--run " + strings.Repeat("n", 40), strings.Repeat("n", 40), strings.Repeat("n", 31)},
	} {
		split := func(r rune) bool { return r == '|' || r == ' ' && !strings.Contains(test.args, "|") }
		cfg, dir, err := resolved(t, nil, strings.FieldsFunc(test.args, split)...)
		if err != nil || dir != test.dir || cfg.Run != test.run {
			t.Errorf("%s: folder %q, run %q, %v", test.args, dir, cfg.Run, err)
		}
	}
}

func TestRunIsPreparedResumedAndRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runs", "try")
	first, _, err := resolved(t, nil, "--preset", "debug", "--run", dir, "--seed", "5")
	if err != nil {
		t.Fatal(err)
	}
	claim := func(cfg protocol.Config) error {
		unlock, err := claimRun(dir, cfg, false)
		if err == nil {
			unlock()
		}
		return err
	}
	environment := func(name string) (string, bool) { return "nats://environment", name == urlVariable }
	if err := claim(first); err != nil {
		t.Fatal(err)
	}
	if _, err := savedConfig(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("claiming a folder has saved a configuration: %v", err)
	}
	started := first
	started.Bus.URL = "nats://environment"
	if err := saveConfig(dir, started, environment); err != nil {
		t.Fatal(err)
	}
	// The folder alone means the run as it was.
	again, _, err := resolved(t, nil, "--run", dir, "--steps", "9")
	if err != nil {
		t.Fatal(err)
	}
	first.Budget.Steps = 9
	if !reflect.DeepEqual(again, first) {
		t.Errorf("got  %+v\nwant %+v", again, first)
	}
	again.Bus.URL = "nats://file"
	if err := errors.Join(claim(again), saveConfig(dir, again, environment)); err != nil {
		t.Fatalf("the same run: %v", err)
	}
	// What the environment lies over stays.
	started = again
	started.Bus.URL = "nats://environment"
	if err := saveConfig(dir, started, environment); err != nil {
		t.Fatal(err)
	}
	if saved, err := savedConfig(dir); err != nil || !reflect.DeepEqual(saved, again) {
		t.Errorf("saved %+v, %v", saved, err)
	}

	other := again
	other.Model.Deter, other.Seed = 64, 6
	before, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		t.Fatal(err)
	}
	err = claim(other)
	if !errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), "\n  seed: 5 -> 6\n  model.deter: 32 -> 64\n") {
		t.Errorf("other settings: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil || string(after) != string(before) {
		t.Errorf("a refused configuration was saved: %v", err)
	}

	if err := os.WriteFile(filepath.Join(dir, configFile), []byte("model: {deter: x}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := claim(first); !errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), "config.yaml:1") {
		t.Errorf("a broken saved configuration: %v", err)
	}
}

func TestVariablesThatMeanNothing(t *testing.T) {
	got := unknownVariables([]string{"HOME=/", "DREAMFLEET=bin/dreamfleet", "DREAMFLEET_NATS_URL=x", "DREAMFLEET_KERNEL=", "DREAMFLEET_NATS_CRED=y", "DREAMFLEET_SEED=1"})
	if want := []string{"DREAMFLEET_NATS_CRED", "DREAMFLEET_SEED"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
