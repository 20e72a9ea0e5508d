package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/bench"
)

func runBenchCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := newBenchCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// Each line is one figure with the seven keys that programs rely on.
func TestBenchAsJSON(t *testing.T) {
	out, err := runBenchCommand(t, "env", "--json", "--dir", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(out) {
		var keys map[string]any
		if err := json.Unmarshal([]byte(line), &keys); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"name", "config", "value", "unit", "limit", "limit_kind", "ratio"} {
			if _, ok := keys[key]; !ok {
				t.Errorf("%s is missing in %s", key, line)
			}
		}
		var r bench.Result
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Value <= 0 {
			t.Errorf("%s: %v", line, err)
		}
		names = append(names, r.Name)
	}
	if got := strings.Join(names, " "); got != "machine/peak env/simulator env/trial" {
		t.Errorf("figures %s", got)
	}
}

func TestBenchArguments(t *testing.T) {
	for want, args := range map[string][]string{
		`invalid argument "nothing"`: {"nothing"},
		"--threads is 0":             {"env", "--threads", "0"},
		"--rounds is 4, at least 5":  {"env", "--rounds", "4"},
		"--dir: stat /no/such/place": {"env", "--dir", "/no/such/place"},
	} {
		if _, err := runBenchCommand(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}

// A fleet of processes of this program is measured, with every figure that the sizing needs.
func TestBenchScale(t *testing.T) {
	t.Setenv(asCommand, "1")
	dir := t.TempDir()
	out, err := runBenchCommand(t, "scale", "--actors", "1,2,5", "--rounds", "1", "--round", "200ms", "--rate", "50", "--json", "--dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		var r bench.Result
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Value < 0 || r.Unit == "" || r.Config == "" {
			t.Errorf("%s: %v", line, err)
		}
	}
	figures := filepath.Join(dir, "figures.jsonl")
	if err := os.WriteFile(figures, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
	page, err := runBenchCommand(t, "scale", "--sizing", figures)
	if err != nil || !strings.Contains(page, "# Sizing") {
		t.Errorf("%v:\n%s", err, page)
	}
	left, err := filepath.Glob(filepath.Join(dir, "dreamfleet-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left, error %v", left, err)
	}
}

func TestBenchScaleArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"actors are [10 1]": {"scale", "--actors", "10,1"},
		"--rate is 0":       {"scale", "--rate", "0"},
		"--round is 1ms":    {"scale", "--round", "1ms"},
		"--rounds is 0":     {"scale", "--rounds", "0"},
		"no such file":      {"scale", "--sizing", "missing.jsonl"},
	} {
		if _, err := runBenchCommand(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}
