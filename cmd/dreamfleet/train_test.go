package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/hashicorp/go-hclog"
)

// tiny is a run that trains for real and is over in a second.
var tiny = []string{"--preset", "debug", "--set", "evaluate.seeds=2000-2001", "--set", "evaluate.jobs=50", "--set", "replay.slack=16"}

func trainTiny(t *testing.T, dir string, more ...string) string {
	t.Helper()
	code, out, stderr := execute(t, append(append([]string{"train", "--run", dir}, tiny...), more...)...)
	if code != exitOK {
		t.Fatalf("train ended with %d: %s\n%s", code, stderr, out)
	}
	return out
}

func newest(t *testing.T, dir string) *learner.Checkpoint {
	t.Helper()
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return ckpt
}

func TestTrainEndsReportsAndResumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	out := trainTiny(t, dir, "--steps", "1500")
	for _, want := range []string{"the budget of 1500 environment steps is used up", "sita2_left", greedyPolicy, sampledPolicy, dir} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
	first := newest(t, dir).Manifest.Updates
	if first == 0 {
		t.Fatal("nothing was trained")
	}
	trainTiny(t, dir, "--steps", "3000")
	if again := newest(t, dir).Manifest.Updates; again <= first {
		t.Errorf("%d updates after resuming, %d before", again, first)
	}
	metrics, err := monitor.ReadMetrics(dir)
	if err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	for _, m := range metrics {
		if m.Step < last {
			t.Errorf("metrics go back from step %d to %d", last, m.Step)
		}
		last = m.Step
	}
	scores, err := monitor.ReadScores(filepath.Join(dir, "scores.json"))
	if err != nil || len(scores) != 2 || len(scores[0].Xs) < 2 {
		t.Errorf("scores %v, %v", scores, err)
	} else if first := scores[0].Xs[0]; first > 3000 {
		t.Errorf("the first run took %v steps, its budget was 1500", first)
	}

	// The evaluation of the checkpoint, its recorded episode, and a dump of a training step.
	code, out, stderr := execute(t, "evaluate", "--run", dir, "--seeds", "2000-2002", "--jobs", "40", "--json",
		"--trace", filepath.Join(dir, "episode.jsonl.gz"))
	var report struct {
		Policy      string
		MeanJCT     []float64      `json:"mean_jct"`
		RatioToLEFT map[string]any `json:"ratio_to_left"`
	}
	if err := json.Unmarshal([]byte(out), &report); code != exitOK || err != nil {
		t.Fatalf("evaluate ended with %d: %v, %s", code, err, stderr)
	}
	if report.Policy != greedyPolicy || len(report.MeanJCT) != 3 || len(report.RatioToLEFT) != 4 {
		t.Errorf("report %+v", report)
	}
	if code, out, stderr := execute(t, "env", "verify", filepath.Join(dir, "episode.jsonl.gz")); code != exitOK {
		t.Errorf("the recorded episode does not verify: %s %s", out, stderr)
	}
	step := filepath.Join(dir, "step.safetensors")
	if code, _, stderr := execute(t, "learner", "dump", "--run", dir, "--out", step); code != exitOK {
		t.Fatal(stderr)
	}
	f, err := os.Open(step)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dumped, err := model.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if tensors := dumped.ByName(); len(tensors["grads/actor/out/kernel"].Data) == 0 || len(tensors["draws/posterior"].Data) == 0 {
		t.Errorf("the dump has %d tensors and lacks gradients or draws", len(tensors))
	}

	// Settings that belong to the run for life are refused with the difference.
	code, _, stderr = execute(t, "train", "--preset", "debug", "--run", dir, "--set", "model.deter=64")
	if code != exitUsage || !strings.Contains(stderr, "model.deter") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// Two lockstep runs of one seed leave the same bytes, and so does one that was stopped on its way.
func TestLockstepRepeatsAndResumes(t *testing.T) {
	run := func(dir string, more ...string) {
		trainTiny(t, dir, append([]string{"--lockstep", "--seed", "7", "--set", "run=same", "--set", "evaluate.every=0"}, more...)...)
	}
	content := func(dir, name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	base := t.TempDir()
	one, two, three := filepath.Join(base, "one"), filepath.Join(base, "two"), filepath.Join(base, "three")
	run(one, "--steps", "6000")
	run(two, "--steps", "6000")
	run(three, "--steps", "4000")
	before := digest(t, three)
	if code, _, stderr := execute(t, "learner", "dump", "--run", three, "--out", filepath.Join(base, "step.safetensors")); code != exitOK {
		t.Fatal(stderr)
	}
	if after := digest(t, three); !maps.Equal(after, before) {
		t.Errorf("a dump changed the run folder: %v, before %v", after, before)
	}
	run(three, "--steps", "6000")
	want := content(newest(t, one).Dir, learner.StateFile)
	for _, dir := range []string{two, three} {
		if !bytes.Equal(content(newest(t, dir).Dir, learner.StateFile), want) {
			t.Errorf("%s has other parameters", filepath.Base(dir))
		}
	}
	for _, dir := range []string{two, three} {
		if got, want := content(dir, monitor.MetricsFile), content(one, monitor.MetricsFile); !bytes.Equal(got, want) {
			t.Errorf("%s has other metrics:\n%s\nwant\n%s", filepath.Base(dir), got, want)
		}
	}
}

// digest has a checksum for every file below a folder.
func digest(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	sums := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		sums[path] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

func TestInterruptedTrainingSavesAndExitsCleanly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, stderr bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"train", "--run", dir, "--steps", "0", "--duration", "0"}, tiny...), &out, &stderr)
	}()
	waitFor(t, func() bool {
		metrics, err := monitor.ReadMetrics(dir)
		return err == nil && len(metrics) > 1
	})
	cancel()
	if code := <-done; code != exitOK {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if !newest(t, dir).Manifest.Clean {
		t.Error("the last checkpoint is not the run's last state")
	}
	if !strings.Contains(out.String(), "interrupted") {
		t.Error(out.String())
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("waited for 30 s in vain")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// The roles as processes of their own, over TCP, started in the least helpful order.
func TestRolesOverTCP(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "fleet")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	server := startNATS(ctx, t, &wg, base)
	start := func(args ...string) {
		wg.Go(func() {
			var stderr bytes.Buffer
			if code := run(ctx, append(args, "--nats", server), &stderr, &stderr); code != exitOK {
				t.Errorf("%s ended with %d: %s", args[0], code, stderr.String())
			}
		})
	}
	start("actor", "--run", "fleet", "--name", "one", "--log-level", "error")
	start("actor", "--run", "fleet", "--name", "two", "--log-level", "error")
	start("replay", "--run", filepath.Join(base, "store", "fleet"), "--log-level", "error")
	code, out, stderr := execute(t, append([]string{"learner", "--nats", server, "--run", dir, "--steps", "3000", "--log-level", "error"}, tiny...)...)
	if code != exitOK || !strings.Contains(out, greedyPolicy) {
		t.Fatalf("the learner ended with %d: %s\n%s", code, stderr, out)
	}
	if newest(t, dir).Manifest.Updates == 0 {
		t.Error("nothing was trained")
	}
	if _, err := os.Stat(filepath.Join(dir, "log.txt")); err != nil {
		t.Error(err)
	}
}

// A run that cannot begin leaves the folder to one that can.
func TestFailedStartClaimsNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	code, _, stderr := execute(t, append([]string{"train", "--run", dir, "--set", "env.workload.kind=swf", "--set", "env.workload.file=none.swf"}, tiny...)...)
	if code == exitOK || !strings.Contains(stderr, "none.swf") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, err := savedConfig(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a configuration was saved: %v", err)
	}
}

// Without an answer from the server that the environment names, train says so and can be stopped.
func TestTrainWaitsForTheServerOfTheEnvironment(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := nobody.Addr().String()
	nobody.Close()
	t.Setenv(urlVariable, "nats://me:secret@"+address)
	dir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		done <- run(ctx, append([]string{"train", "--run", dir}, tiny...), in, &stderr)
		in.Close()
	}()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if want := "waiting for NATS at nats://me:xxxxx@" + address + ", which DREAMFLEET_NATS_URL names\n"; line != want {
		t.Errorf("printed %q, %v, want %q", line, err, want)
	}
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
