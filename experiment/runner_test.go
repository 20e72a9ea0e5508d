package experiment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// program stands for the command: it trains by writing metrics, as far as it is allowed, and evaluates by printing.
type program struct {
	t    *testing.T
	mu   sync.Mutex
	now  time.Time
	runs []string // command lines
	busy int
	most int

	steps func(c protocol.Config) int64                // that a training takes; nil is its budget
	fail  func(line string) error                      // nil is nothing
	train func(ctx context.Context, c protocol.Config) // called while training
}

func flag(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func (p *program) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *program) exec(ctx context.Context, c Command) (time.Duration, error) {
	line := strings.Join(c.Args, " ")
	p.mu.Lock()
	p.runs = append(p.runs, line)
	p.busy++
	p.most = max(p.most, p.busy)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.busy--
		p.mu.Unlock()
	}()
	if p.fail != nil {
		if err := p.fail(line); err != nil {
			fmt.Fprintln(c.Log, "one\ntwo\nthe last words of", c.Args[0])
			return 0, err
		}
	}
	document, err := os.ReadFile(flag(c.Args, "--config"))
	if err != nil {
		p.t.Error(err)
	}
	cfg := protocol.DefaultConfig()
	if err := cfg.Merge("config", document); err != nil {
		p.t.Error(err)
	}
	if c.Args[0] == "evaluate" {
		mode := []string{Greedy, Sampled}
		if slices.Contains(c.Args, "--rules") {
			mode = []string{Rule}
		}
		seeds, err := protocol.ParseSeeds(cfg.Evaluate.Seeds)
		if err != nil {
			p.t.Error(err)
		}
		for _, m := range mode {
			r := Result{Method: "left", Test: cfg.Env.Name, Mode: m, Episode: 1, Seeds: cfg.Evaluate.Seeds, MeanJCT: make([]float64, len(seeds))}
			for i := range r.MeanJCT {
				r.MeanJCT[i] = 100
			}
			if err := r.WriteJSON(c.Stdout); err != nil {
				p.t.Error(err)
			}
		}
		return time.Second, nil
	}
	if p.train != nil {
		p.train(ctx, cfg)
	}
	steps := cfg.Budget.Steps
	if p.steps != nil {
		steps = p.steps(cfg)
	}
	run := flag(c.Args, "--run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		p.t.Error(err)
	}
	text := fmt.Sprintf(`{"step":%d,"time":1,"env/steps":%d,"run/seconds":60,"evaluation/x_greedy":1.5,"evaluation/x_sampled":2}`+"\n", steps/10, steps)
	f, err := os.OpenFile(filepath.Join(run, monitor.MetricsFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	p.now = p.now.Add(time.Minute)
	p.mu.Unlock()
	return 30 * time.Second, ctx.Err()
}

const twoTasks = `
question: Which?
train: {budget: {steps: 1000, duration: 10m}}
stages: [{name: one}, {name: two}]
seeds: 3000-3001
methods: [{name: a, like: dreamer}, {name: b, like: dreamer}]
`

func newRunner(t *testing.T, dir, document string, seeds ...uint64) (*Runner, *program) {
	t.Helper()
	plan, err := somePreset(t, document).Resolve(Options{Scale: "debug", Seeds: seeds})
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	return &Runner{Plan: plan, Dir: dir, Parallel: 2, Exec: p.exec, Now: p.clock}, p
}

func (p *program) count(part string) (n int) {
	for _, line := range p.runs {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func TestRunnerTrainsTestsAndSkips(t *testing.T) {
	dir := t.TempDir()
	r, p := newRunner(t, dir, twoTasks, 0)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Two tests by the rules; two methods, each trained twice and tested on both after each.
	if p.count("--rules") != 2 || p.count("train ") != 4 || p.count("--change-task") != 2 || len(p.runs) != 2+4+8 || p.most > 2 {
		t.Errorf("%d at once: %q", p.most, p.runs)
	}
	job, err := ReadJob(JobDir(dir, "a", 0))
	if err != nil || job.Finished == nil || job.Steps != 2000 || job.Updates != 200 || job.CPUSeconds != 60 || len(job.Commands) != 2 ||
		!strings.HasPrefix(job.Commands[0], "dreamfleet train --run ") {
		t.Errorf("job %+v, %v", job, err)
	}
	results, err := ReadResultsFile(filepath.Join(JobDir(dir, "a", 0), ScoresFile))
	if err != nil || len(results) != 8 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	if r := results[5]; r.Method != "a" || r.Stage != 2 || r.After != "two" || r.Test != "one" || !r.Inside || r.Mode != Sampled || r.Steps != 2000 || r.Minutes < results[0].Minutes {
		t.Errorf("result %+v", r)
	}
	if rules, err := ReadResultsFile(filepath.Join(dir, RulesFile)); err != nil || len(rules) != 2 || rules[0].Stage != 0 {
		t.Errorf("rules %v, %v", rules, err)
	}
	curve, err := os.ReadFile(filepath.Join(JobDir(dir, "a", 0), CurveFile))
	if err != nil || !strings.HasPrefix(string(curve), "environment_steps,minutes,greedy,sampled\n1000,1,1.5,2\n") {
		t.Errorf("curve %s, %v", curve, err)
	}
	m, err := ReadManifest(dir)
	if err != nil || !slices.Equal(m.Methods, []string{"a", "b"}) || !slices.Equal(m.Rules, []string{"left"}) || !slices.Equal(m.Stages, []string{"one", "two"}) {
		t.Errorf("manifest %+v, %v", m, err)
	}

	// Nothing is done again; another seed is added.
	again, p := newRunner(t, dir, twoTasks, 0)
	if err := again.Run(t.Context()); err != nil || len(p.runs) != 0 {
		t.Errorf("done again: %q, %v", p.runs, err)
	}
	more, p := newRunner(t, dir, twoTasks, 0, 1)
	if err := more.Run(t.Context()); err != nil || p.count("train ") != 4 || p.count("seed-0") != 0 || p.count("--rules") != 0 {
		t.Errorf("another seed: %q, %v", p.runs, err)
	}
	if m, err := ReadManifest(dir); err != nil || !slices.Equal(m.Seeds, []uint64{0, 1}) {
		t.Errorf("seeds %v, %v", m.Seeds, err)
	}
	other, _ := newRunner(t, dir, twoTasks, 0)
	other.Plan.Scale = "small"
	if err := other.Run(t.Context()); !errors.Is(err, protocol.ErrConfig) || !strings.Contains(err.Error(), "at scale debug") {
		t.Errorf("another scale in the same folder: %v", err)
	}
}

// A job that fails says why, the others go on, and the same command tries it again.
func TestRunnerReportsFailures(t *testing.T) {
	dir := t.TempDir()
	r, p := newRunner(t, dir, twoTasks, 0)
	p.fail = func(line string) error {
		if strings.HasPrefix(line, "train") && strings.Contains(line, "/b/") {
			return errors.New("exit status 1")
		}
		return nil
	}
	err := r.Run(t.Context())
	if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "1 of 4 jobs failed") || !strings.Contains(err.Error(), "b seed 0: exit status 1") ||
		!strings.Contains(err.Error(), "the last words of train") {
		t.Errorf("error %v", err)
	}
	if job, err := ReadJob(JobDir(dir, "a", 0)); err != nil || job.Finished == nil {
		t.Errorf("the other job: %+v, %v", job, err)
	}
	if lines := strings.Join(Lines(r.Status(), 2), "\n"); !strings.Contains(lines, "3 of 4 jobs done, 1 failed") || !strings.Contains(lines, "failed: exit status 1") {
		t.Errorf("shown as\n%s", lines)
	}
	again, p := newRunner(t, dir, twoTasks, 0)
	if err := again.Run(t.Context()); err != nil || p.count("/a/") != 0 || p.count("train ") != 2 {
		t.Errorf("tried again: %q, %v", p.runs, err)
	}
}

// A stopped run counts the time that it has used, goes on with what is left, and does not repeat what was tested.
func TestRunnerGoesOn(t *testing.T) {
	dir := t.TempDir()
	const one = "question: Which?\ntrain: {budget: {steps: 1000, duration: 10m}}\nmethods: [{name: a, like: dreamer}]\nseeds: \"1\"\n"
	r, p := newRunner(t, dir, one, 0)
	ctx, stop := context.WithCancel(t.Context())
	p.train = func(context.Context, protocol.Config) { stop() }
	p.steps = func(protocol.Config) int64 { return 300 }
	if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	job, err := ReadJob(JobDir(dir, "a", 0))
	if err != nil || job.Finished != nil || job.Minutes != 1 || job.Steps != 300 || job.Stages[0].Done {
		t.Errorf("stopped: %+v, %v", job, err)
	}
	// Something else stops the training: it is not taken for done.
	r, p = newRunner(t, dir, one, 0)
	p.steps = func(protocol.Config) int64 { return 600 }
	if err := r.Run(t.Context()); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "before its budget was used up") {
		t.Errorf("an early end: %v", err)
	}
	if p.count("--duration 9m0s") != 1 {
		t.Errorf("goes on by %q", p.runs)
	}
	r, p = newRunner(t, dir, one, 0)
	if err := r.Run(t.Context()); err != nil || p.count("--duration 8m0s") != 1 {
		t.Errorf("goes on by %q, %v", p.runs, err)
	}
	if job, err = ReadJob(JobDir(dir, "a", 0)); err != nil || job.Finished == nil || job.Minutes != 3 || len(job.Commands) != 3 {
		t.Errorf("finished: %+v, %v", job, err)
	}
	curve, err := RunCurve(filepath.Join(JobDir(dir, "a", 0), RunDir))
	if err != nil || len(curve.Steps) != 3 {
		t.Errorf("curve %v, %v", curve, err)
	}
}

func TestTimeLeft(t *testing.T) {
	jobs := []Status{
		{State: Done, MinuteLimit: 10, Minutes: 10},
		{State: Training, MinuteLimit: 10, Minutes: 4, StepLimit: 1000, Steps: 800},
		{State: Waiting, MinuteLimit: 10},
		{State: Waiting}, // rules
	}
	if left, ok := TimeLeft(jobs, 2); !ok || left.Round(time.Second) != 5*time.Minute+30*time.Second {
		t.Errorf("%v left, %v", left, ok)
	}
	jobs = append(jobs, Status{State: Waiting, StepLimit: 5})
	if _, ok := TimeLeft(jobs, 2); ok {
		t.Error("the time of steps that nobody has begun is known")
	}
	if line := jobs[1].Line(); !strings.Contains(line, "80 %, 800 steps, 3 a second, 1m0s left") {
		t.Errorf("shown as %q", line)
	}
}

// The clock of a run counts its processes' own time.
func TestCurveCountsOverRestarts(t *testing.T) {
	dir := t.TempDir()
	text := `{"step":1,"time":100,"run/seconds":50}
{"step":2,"time":110,"env/steps":10,"run/seconds":60,"evaluation/dreamer_greedy":3,"evaluation/dreamer_sampled":4,"evaluation/dreamer_greedy_mean":9}
{"step":3,"time":111,"run/seconds":61}
{"step":2,"time":112,"env/steps":15,"run/seconds":57,"evaluation/dreamer_greedy":2,"evaluation/dreamer_sampled":3}
{"step":3,"time":5000,"run/seconds":20}
{"step":4,"time":5100,"env/steps":20,"run/seconds":120,"evaluation/dreamer_greedy":1,"evaluation/dreamer_sampled":2}
`
	if err := os.WriteFile(filepath.Join(dir, monitor.MetricsFile), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := RunCurve(dir)
	if err != nil || fmt.Sprint(c) != "{[10 15 20] [1 0.95 3.0166666666666666] [3 2 1] [4 3 2]}" {
		t.Errorf("curve %v, %v", c, err)
	}
}
