package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// runEnv executes an env command line.
func runEnv(args ...string) (stdout, stderr string, err error) {
	var out, notes strings.Builder
	cmd := newEnvCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&notes)
	err = cmd.ExecuteContext(context.Background())
	return out.String(), notes.String(), err
}

type scoreObject struct {
	Policy string    `json:"policy"`
	Seeds  []uint64  `json:"seeds"`
	JCT    []float64 `json:"mean_jct"`
	Ratio  struct {
		Mean, IQM, Median float64
		CI95              []float64
	} `json:"ratio_to_left"`
}

func scoreJSON(t *testing.T, args ...string) scoreObject {
	t.Helper()
	out, _, err := runEnv(append([]string{"score", "--json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	var o scoreObject
	if err := d.Decode(&o); err != nil || d.More() {
		t.Fatalf("want one object with four keys, got %v and %s", err, out)
	}
	return o
}

func TestScoreAsJSON(t *testing.T) {
	o := scoreJSON(t, "--policy", "least_load", "--seeds", "2000-2029")
	var sum float64
	for _, jct := range o.JCT {
		sum += jct
	}
	if o.Policy != "least_load" || len(o.Seeds) != 30 || o.Seeds[29] != 2029 || len(o.JCT) != 30 || math.Round(sum/30) != 837 {
		t.Errorf("%+v", o)
	}
	if r := o.Ratio; math.Abs(r.Mean-1.062) > 0.0005 || len(r.CI95) != 2 || !(r.CI95[0] < r.IQM && r.IQM < r.CI95[1]) {
		t.Errorf("%+v", r)
	}
	if left := scoreJSON(t, "--policy", "left", "--seeds", "2000,2001"); left.Ratio.Mean != 1 || left.Ratio.CI95[1] != 1 {
		t.Errorf("LEFT's ratio to itself %+v", left.Ratio)
	}
}

func TestScoreFlagsReachTheSimulator(t *testing.T) {
	base := []string{"--policy", "left", "--seeds", "2000-2004", "--jobs", "200"}
	with := func(more ...string) float64 { return scoreJSON(t, append(slices.Clone(base), more...)...).JCT[0] }
	plain := with()
	for _, more := range [][]string{
		{"--interval", "100"}, {"--size-shape", "2.5"}, {"--size-scale", "50"}, {"--servers", "5"}, {"--rates", "1,2"},
		{"--load", "0.5"}, {"--workload", "mmpp"}, {"--workload", "diurnal"}, {"--jobs", "100"},
		{"--assume-rates", "1.05,0.95,0.85,0.75,0.65,0.55,0.45,0.35,0.25,0.15"},
	} {
		if with(more...) == plain {
			t.Errorf("%v changes nothing", more)
		}
	}
	// Burst and period matter to bursts only.
	if with("--workload", "mmpp", "--burst", "9") == with("--workload", "mmpp", "--period", "200") || with("--burst", "9") != plain {
		t.Error("--burst and --period do not reach the workload")
	}
	base[1] = "sita2_left"
	if sita := with(); with("--sita-size", "200") == sita || with("--sita-share", "0.2") == sita {
		t.Error("SITA2's flags change nothing")
	}
}

func TestScoreAllAsTable(t *testing.T) {
	out, _, err := runEnv("score", "--seeds", "1-3", "--jobs", "100")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(loadbalance.PolicyNames(), "lower_bound") {
		if !strings.Contains(out, " "+name+" ") {
			t.Errorf("no line for %s in\n%s", name, out)
		}
	}
}

func TestScoreOnTraceFiles(t *testing.T) {
	dir := t.TempDir()
	var swf, csv bytes.Buffer
	zip := gzip.NewWriter(&swf)
	csv.WriteString("at,work,state\n")
	for i := range 300 {
		fmt.Fprintf(zip, "%d %d -1 %d 1 -1 -1 -1 -1 -1 -1 1 1 -1 -1 -1 -1 -1\n", i, i*i/10, (i%9)*40)
		fmt.Fprintf(&csv, "2024-01-01 00:%02d:%02d,%d,%s\n", i/60, i%60, 10+i%7, []string{"ok", "failed"}[i%2])
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	swfFile, csvFile := filepath.Join(dir, "jobs.swf.gz"), filepath.Join(dir, "requests.csv")
	if err := errorsOf(os.WriteFile(swfFile, swf.Bytes(), 0o644), os.WriteFile(csvFile, csv.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  []string
		notes string
	}{
		{[]string{"--workload", "swf", "--file", swfFile, "--load", "0.9"}, "266 jobs of 300 rows (0 filtered, 34 with a run time of zero or less"},
		{[]string{"--workload", "csv", "--file", csvFile, "--arrival", "at", "--size", "work", "--filter", "state=ok", "--load", "0.9", "--unit", "10"},
			"150 jobs of 300 rows (150 filtered"},
	} {
		out, notes, err := runEnv(append([]string{"score"}, append(c.args, "--policy", "least_load", "--jobs", "100", "--seeds", "1-4", "--json")...)...)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(notes, c.notes) || !strings.Contains(notes, "offered load of 0.9") || !strings.HasPrefix(out, `{"policy":"least_load","seeds":[1,2,3,4]`) {
			t.Errorf("printed %s and noted %s", out, notes)
		}
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestScoreRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--policy", "best"}, `"best" is none of random, round_robin`},
		{[]string{"--seeds", "9-1"}, "--seeds"},
		{[]string{"--servers", "0"}, "--servers is 0"},
		{[]string{"--rates", "1,-1"}, "service rate -1"},
		{[]string{"--workload", "tides"}, `kind is "tides"`},
		{[]string{"--jobs", "0"}, "0 jobs an episode"},
		{[]string{"--interval", "-3"}, "interval is -3"},
		{[]string{"--interval", "0"}, "--interval is 0"},
		{[]string{"--load", "0.5", "--size-shape", "1"}, "Pareto shape of 1"},
		{[]string{"--workload", "csv"}, "kind csv needs a file"},
		{[]string{"--file", "jobs.csv"}, "--file is for --workload csv or swf, and it is poisson"},
		{[]string{"--workload", "swf", "--file", "jobs.swf", "--filter", "a=b"}, "--filter is for --workload csv"},
		{[]string{"--sita-share", "-5"}, "--sita-share is -5"},
		{[]string{"--sita-share", "5"}, "--sita-share is 5"},
		{[]string{"--sita-size", "-1"}, "--sita-size is -1"},
		{[]string{"--assume-rates", "1,2"}, "--assume-rates are 2, want one for each of the 10 servers"},
		{[]string{"--servers", "2", "--assume-rates", "1,0"}, "--assume-rates: service rate 0"},
	} {
		if _, _, err := runEnv(append([]string{"score"}, c.args...)...); !errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: error %v, want one of usage that says %q", c.args, err, c.says)
		}
	}
	// What is wrong with a file is no matter of usage.
	for _, args := range [][]string{{"--index", "none.json"}, {"--workload", "swf", "--file", "none.swf"}} {
		if _, _, err := runEnv(append([]string{"score"}, args...)...); err == nil || errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), "none.") {
			t.Errorf("%v: error %v", args, err)
		}
	}
}

func TestTuneWritesWhatScoreReads(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	episodes := []string{"--seeds", "50000-50009", "--jobs", "300"}
	_, notes, err := runEnv(append([]string{"tune", "--knots", "2", "--generations", "15", "--out", first}, episodes...)...)
	if err != nil || !strings.Contains(notes, "generation 15 of 15: ratio to LEFT 0.") {
		t.Fatalf("%v, noted\n%s", err, notes)
	}
	before := scoreJSON(t, append([]string{"--policy", "index", "--index", first}, episodes...)...).Ratio.Mean
	if before >= 1 {
		t.Errorf("tuned to a ratio of %v", before)
	}
	if _, _, err = runEnv(append([]string{"tune", "--start", first, "--knots", "10", "--generations", "4", "--out", second}, episodes...)...); err != nil {
		t.Fatal(err)
	}
	if after := scoreJSON(t, append([]string{"--policy", "index", "--index", second}, episodes...)...).Ratio.Mean; after > before+1e-3 {
		t.Errorf("refined from %v to %v", before, after)
	}
	index, err := loadbalance.ReadIndex(second)
	if err != nil {
		t.Fatal(err)
	}
	if want := "env tune --generations 4 --jobs 300 --knots 10 --seeds 50000-50009 --start " + first + ": mean ratio to LEFT 0."; !slices.Equal(index.Rates, loadbalance.DefaultRates()) || !strings.HasPrefix(index.Tuned, want) {
		t.Errorf("knots %v, tuned %q, want %q", index.Rates, index.Tuned, want)
	}
	if _, _, err := runEnv("tune", "--knots", "0"); err == nil {
		t.Error("no error for 0 knots")
	}
}

func TestVerifyPrintsAVerdictForEachFile(t *testing.T) {
	const recorded = "../../env/loadbalance/testdata/park/default_s1_left.jsonl.gz"
	out, _, err := runEnv("verify", recorded)
	if err != nil || out != recorded+": ok\n" {
		t.Errorf("%q, %v", out, err)
	}
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	if err := os.WriteFile(bad, []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, _, err = runEnv("verify", bad, recorded, "missing.jsonl")
	if err == nil || err.Error() != "2 of 3 files are not ok" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{bad + ": not a recorded episode: line 1", recorded + ": ok", "missing.jsonl: open missing.jsonl"} {
		if !strings.Contains(out, want) {
			t.Errorf("printed\n%swithout %q", out, want)
		}
	}
}
