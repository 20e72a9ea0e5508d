package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
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

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
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
	for _, want := range []string{"the budget of 1500 environment steps is used up", "sita2_left", misledLEFT, "a trial of 2 episodes", policyName(protocol.Dreamer, true), policyName(protocol.Dreamer, false), dir} {
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
	} else if scores[0].Task == "run" || !strings.HasPrefix(scores[0].Task, "load_balance_poisson_") {
		t.Errorf("scores are of the task %q", scores[0].Task)
	} else if first := scores[0].Xs[0]; first > 3000 {
		t.Errorf("the first run took %v steps, its budget was 1500", first)
	}

	// The evaluation of the checkpoint, its recorded episode, and a dump of a training step.
	code, out, stderr := execute(t, "evaluate", "--run", dir, "--seeds", "2000-2002", "--jobs", "40", "--json",
		"--trace", filepath.Join(dir, "episode.jsonl.gz"))
	var report struct {
		Policy      string
		MeanJCT     []float64        `json:"mean_jct"`
		RatioToLEFT map[string]any   `json:"ratio_to_left"`
		ByEpisode   []map[string]any `json:"ratio_to_left_by_episode"`
	}
	if err := json.Unmarshal([]byte(out), &report); code != exitOK || err != nil {
		t.Fatalf("evaluate ended with %d: %v, %s", code, err, stderr)
	}
	if report.Policy != policyName(protocol.Dreamer, true) || len(report.MeanJCT) != 3 || len(report.RatioToLEFT) != 4 ||
		len(report.ByEpisode) != 2 || report.ByEpisode[1]["iqm"] != report.RatioToLEFT["iqm"] {
		t.Errorf("report %+v", report)
	}
	if code, _, stderr := execute(t, "evaluate", "--run", dir, "--jobs", "-1"); code != exitUsage {
		t.Errorf("--jobs -1: exit code %d: %s", code, stderr)
	}
	if code, out, stderr := execute(t, "env", "verify", filepath.Join(dir, "episode.jsonl.gz")); code != exitOK {
		t.Errorf("the recorded episode does not verify: %s %s", out, stderr)
	}

	// Its policy as one file has the same scores, and one that was changed has none.
	shared := filepath.Join(t.TempDir(), "policy.safetensors")
	if code, _, stderr := execute(t, "export", "--run", dir, "--out", shared); code != exitOK {
		t.Fatal(stderr)
	}
	if code, again, stderr := execute(t, "evaluate", "--policy", shared, "--seeds", "2000-2002", "--jobs", "40", "--json"); code != exitOK || again != out {
		t.Errorf("the policy file has other scores than the run, exit code %d: %s\n%s\n%s", code, stderr, again, out)
	}
	content, err := os.ReadFile(shared)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 0x10
	if err := os.WriteFile(shared, content, 0o644); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{shared: "not those that were written", "missing.safetensors": "missing.safetensors"} {
		if code, _, stderr := execute(t, "evaluate", "--policy", file); code == exitOK || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", file, code, stderr)
		}
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
		trainTiny(t, dir, append([]string{"--lockstep", "--seed", "7", "--set", "run=same", "--set", "evaluate.every=0", "--duration", "0"}, more...)...)
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
	start := func(args ...string) *said {
		stderr := &said{}
		wg.Go(func() {
			if code := run(ctx, append(args, "--nats", server), stderr, stderr); code != exitOK {
				t.Errorf("%s ended with %d: %s", args[0], code, stderr)
			}
		})
		return stderr
	}
	roles := []*said{
		start("actor", "--run", "fleet", "--name", "one"), start("actor", "--run", "fleet", "--name", "two"),
		start("replay", "--run", filepath.Join(base, "store", "fleet")),
	}
	code, out, stderr := execute(t, append([]string{"learner", "--nats", server, "--run", dir, "--steps", "3000", "--log-level", "error"}, tiny...)...)
	if code != exitOK || !strings.Contains(out, policyName(protocol.Dreamer, true)) {
		t.Fatalf("the learner ended with %d: %s\n%s", code, stderr, out)
	}
	if newest(t, dir).Manifest.Updates == 0 {
		t.Error("nothing was trained")
	}
	if _, err := os.Stat(filepath.Join(dir, "log.txt")); err != nil {
		t.Error(err)
	}

	// A learner elsewhere takes over from the last checkpoint.
	elsewhere := filepath.Join(base, "elsewhere", "fleet")
	before := newest(t, dir).Manifest.Updates
	code, out, stderr = execute(t, append([]string{"learner", "--nats", server, "--run", elsewhere, "--steps", "3100", "--log-level", "error", "--standby"}, tiny...)...)
	if code != exitOK || !strings.Contains(out, policyName(protocol.Dreamer, true)) {
		t.Fatalf("the learner that takes over ended with %d: %s\n%s", code, stderr, out)
	}
	if after := newest(t, elsewhere).Manifest.Updates; after < before {
		t.Errorf("it took over from %d updates and ended with %d", before, after)
	}

	// The run begun anew in another folder, with other settings: the roles that are still there
	// take them up.
	other := filepath.Join(base, "anew", "fleet")
	code, out, stderr = execute(t, append([]string{"learner", "--nats", server, "--run", other, "--steps", "6000", "--log-level", "error",
		"--set", "learner.batch_length=6"}, tiny...)...)
	if code != exitOK || !strings.Contains(out, policyName(protocol.Dreamer, true)) {
		t.Fatalf("the second learner ended with %d: %s\n%s", code, stderr, out)
	}
	if newest(t, other).Manifest.Updates == 0 {
		t.Error("nothing was trained by the second learner")
	}
	for _, role := range roles {
		waitFor(t, func() bool { return strings.Contains(role.String(), "starting over with it") })
	}
}

// said is what a process has printed so far.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
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

// A run that trains on a trace is evaluated on jobs that it does not train on.
func TestTraceIsDividedForEvaluation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jobs.csv")
	text := "arrival,size\n"
	for i := range 500 {
		text += fmt.Sprintf("%d,%d\n", 50*i, i+1) // a size tells the job
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := protocol.PresetConfig("small")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Env.Workload.Kind, cfg.Env.Workload.File, cfg.Env.EpisodeJobs, cfg.Env.Servers = "csv", file, 80, 10
	w, err := newWorld(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.note, "first 400 jobs") || !strings.Contains(w.note, "last 100") {
		t.Errorf("note %q", w.note)
	}
	sizes := func(workload loadbalance.Workload) (low, high int64) {
		low = 1 << 40
		for seed := range uint64(200) {
			src, err := workload.Episode(seed, 80)
			if err != nil {
				t.Fatal(err)
			}
			for {
				j, err := src.Next()
				if err != nil {
					break
				}
				low, high = min(low, j.Size), max(high, j.Size)
			}
		}
		return low, high
	}
	if low, high := sizes(w.tasks.Base.Workload); low > 9 || high > 400 || high < 390 {
		t.Errorf("trains on jobs %d to %d", low, high)
	}
	if low, high := sizes(w.heldBack); low < 401 || low > 410 || high < 490 {
		t.Errorf("is evaluated on jobs %d to %d", low, high)
	}
	if _, err := newEvaluator(t.Context(), cfg, w, "1-2", 101); err == nil || !strings.Contains(err.Error(), "evaluation has 101 jobs") || !strings.Contains(err.Error(), "is 100 jobs") {
		t.Errorf("an episode longer than what is held back: %v", err)
	}
	e, err := newEvaluator(t.Context(), cfg, w, "1-2", 100)
	if err != nil {
		t.Fatal(err)
	}
	recording, err := e.trials.Recording("p", make([]int, 100))
	if err != nil || recording.Jobs[0].Size != 401 {
		t.Errorf("the evaluation's first job is %v, %v", recording.Jobs[0], err)
	}
}

// An offered load sets the interval of Park's arrivals, too.
func TestLoadSetsTheInterval(t *testing.T) {
	cfg := protocol.DefaultConfig()
	cfg.Env.Workload.Load = 0.5
	w, err := newWorld(cfg)
	if err != nil || w.tasks.Base.Interval != 100 { // sizes of 300 on rates of 6
		t.Errorf("interval %v, %v", w.tasks.Base.Interval, err)
	}
	cfg.Env.JobSizeShape = 1
	if _, err := newWorld(cfg); !errors.Is(err, protocol.ErrConfig) {
		t.Errorf("sizes without a mean: %v", err)
	}
}

// Seeds and folders share the name of their task; other tasks have others.
func TestScoresNameTheTask(t *testing.T) {
	cfg := protocol.DefaultConfig()
	cfg.Run, cfg.Seed, cfg.Env.Reward = "a", 3, "park"
	if name := scoreTask(cfg); name != "park_load_balance" {
		t.Errorf("Park's task is called %s", name)
	}
	seen := map[string]bool{}
	for _, set := range []string{"env.episodes_per_trial=2", "env.tasks.job_interval=[50,60]", "env.permute_rates=true", "env.workload.load=0.5"} {
		cfg := protocol.DefaultConfig()
		if err := cfg.Set(set); err != nil {
			t.Fatal(err)
		}
		name := scoreTask(cfg)
		cfg.Seed, cfg.Run = 9, "other"
		if again := scoreTask(cfg); again != name || !strings.HasPrefix(name, "load_balance_poisson_") || seen[name] {
			t.Errorf("%s: %s, then %s", set, name, again)
		}
		seen[name] = true
	}
}

// Damaged files of a run folder cost neither the run nor its end.
func TestDamagedFilesDoNotStopARun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	trainTiny(t, dir, "--steps", "600")
	scores, metrics := filepath.Join(dir, scoresFile), filepath.Join(dir, monitor.MetricsFile)
	content, err := os.ReadFile(metrics)
	if err != nil {
		t.Fatal(err)
	}
	if err := errorsOf(os.WriteFile(scores, []byte("[{"), 0o644), os.WriteFile(metrics, append([]byte("half a line\n"), content...), 0o644)); err != nil {
		t.Fatal(err)
	}
	out := trainTiny(t, dir, "--steps", "1200")
	for _, want := range []string{"warning: ", "metrics.jsonl:1: ", "it is kept as scores.json.damaged", policyName(protocol.Dreamer, true)} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if kept, err := os.ReadFile(scores + ".damaged"); err != nil || string(kept) != "[{" {
		t.Errorf("kept %q, %v", kept, err)
	}
	if list, err := monitor.ReadScores(scores); err != nil || len(list) != 2 {
		t.Errorf("scores %v, %v", list, err)
	}
	if _, err := monitor.ReadMetrics(dir); err != nil {
		t.Error(err)
	}
}
