package experiment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Subfolders and files that the runner makes beside those that reports read.
const (
	testsDir = "tests"   // the tests' configuration keys
	logFile  = "log.txt" // what a job's commands said
)

// Command is a command line of this program, without its name.
type Command struct {
	Args   []string
	Stdout io.Writer // of evaluations: results, a line each
	Log    io.Writer // everything else that it says
}

// Runner works a plan off in a folder. What the folder already has is not done again, so that the same plan on the
// same folder goes on where it was stopped.
type Runner struct {
	Plan     *Plan
	Dir      string
	Parallel int // jobs at once

	// Exec runs a command and returns the CPU time that it took. When ctx ends it asks the command to stop, and waits
	// until it has.
	Exec func(ctx context.Context, c Command) (cpu time.Duration, err error)
	Now  func() time.Time

	Version, Commit string
	Machine         Machine

	mu       sync.Mutex
	manifest Manifest
	jobs     []*job
}

// ErrFailed reports jobs that failed; the others were worked off.
var ErrFailed = errors.New("jobs failed")

// Run works the plan off. A job that fails does not stop the others; the error then is ErrFailed with all that went
// wrong. When ctx ends, running commands are stopped and waited for.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	queue := make(chan *job)
	var workers sync.WaitGroup
	for range max(r.Parallel, 1) {
		workers.Go(func() {
			for j := range queue {
				r.work(ctx, j)
			}
		})
	}
	for _, j := range r.jobs {
		select {
		case queue <- j:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	workers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var failures []string
	for _, s := range r.Status() {
		if s.State == Failed {
			failures = append(failures, fmt.Sprintf("%s: %s", s.Name, s.Err))
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d of %d %w:\n%s", len(failures), len(r.jobs), ErrFailed, strings.Join(failures, "\n"))
	}
	return nil
}

// prepare writes what the experiment is, and the tests, into the folder.
func (r *Runner) prepare() error {
	if err := os.MkdirAll(filepath.Join(r.Dir, testsDir), 0o755); err != nil {
		return fmt.Errorf("experiment: %w", err)
	}
	p := r.Plan
	m := Manifest{
		Name: p.Name, Question: p.Question, Scale: p.Scale, Stages: p.Stages, Started: r.Now().UTC().Truncate(time.Second),
		Version: r.Version, Commit: r.Commit, Machine: r.Machine, Rules: []string{},
	}
	for _, t := range p.Tests {
		m.Tests = append(m.Tests, t.TestInfo)
	}
	old, err := ReadManifest(r.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case old.Name != m.Name || old.Scale != m.Scale:
		return fmt.Errorf("%w: %s holds experiment %s at scale %s; give another --out", protocol.ErrConfig, r.Dir, old.Name, old.Scale)
	default:
		m.Started, m.Seeds, m.Methods, m.Rules = old.Started, old.Seeds, old.Methods, old.Rules
	}
	for _, run := range p.Runs {
		if !slices.Contains(m.Methods, run.Method) {
			m.Methods = append(m.Methods, run.Method)
		}
		if !slices.Contains(m.Seeds, run.Seed) {
			m.Seeds = append(m.Seeds, run.Seed)
		}
	}
	for _, t := range p.Tests {
		if err := os.WriteFile(r.testFile(t), t.Document, 0o644); err != nil {
			return fmt.Errorf("experiment: %w", err)
		}
	}
	if err := m.Write(r.Dir); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifest = m
	r.jobs = nil
	for _, t := range p.Tests {
		r.jobs = append(r.jobs, &job{name: "rules on " + t.Name, test: &t})
	}
	for _, run := range p.Runs {
		r.jobs = append(r.jobs, &job{name: fmt.Sprintf("%s seed %d", run.Method, run.Seed), run: &run, dir: JobDir(r.Dir, run.Method, run.Seed)})
	}
	return nil
}

func (r *Runner) testFile(t Test) string { return filepath.Join(r.Dir, testsDir, t.Name+".yaml") }

// work does one job and keeps what came of it.
func (r *Runner) work(ctx context.Context, j *job) {
	if ctx.Err() != nil {
		return
	}
	var err error
	if j.test != nil {
		err = r.rules(ctx, j)
	} else {
		err = r.train(ctx, j)
	}
	switch {
	case ctx.Err() != nil:
		j.set(Stopped, "")
	case err != nil:
		j.fail(err)
	default:
		j.set(Done, "")
	}
}

// rules scores the heuristics on a test, unless they have been.
func (r *Runner) rules(ctx context.Context, j *job) error {
	path := filepath.Join(r.Dir, RulesFile)
	r.mu.Lock()
	have, err := ReadResultsFile(path)
	r.mu.Unlock()
	if err != nil || scoredOn(have, j.test.TestInfo, 0) {
		return err
	}
	j.set(Testing, j.test.Name)
	results, err := r.results(ctx, strings.TrimSuffix(r.testFile(*j.test), ".yaml")+".log", "evaluate", "--rules", "--results", "--config", r.testFile(*j.test))
	if err != nil {
		return err
	}
	for i := range results {
		results[i].Inside = j.test.Inside
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, result := range results {
		if !slices.Contains(r.manifest.Rules, result.Method) {
			r.manifest.Rules = append(r.manifest.Rules, result.Method)
		}
	}
	return errors.Join(AppendResults(path, results...), r.manifest.Write(r.Dir))
}

// results runs an evaluation and reads what it prints.
func (r *Runner) results(ctx context.Context, logPath string, args ...string) (results []Result, err error) {
	log, err := openLog(logPath, args)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var out bytes.Buffer
	if _, err := r.Exec(ctx, Command{Args: args, Stdout: &out, Log: log}); err != nil {
		return nil, log.explain(err)
	}
	if results, err = ReadResults(&out); err == nil && len(results) == 0 {
		err = fmt.Errorf("%w: the evaluation printed none", ErrResult)
	}
	return results, err
}

// scoredOn tells whether the results of a test after a stage are there.
func scoredOn(results []Result, t TestInfo, stage int) bool {
	return slices.ContainsFunc(results, func(r Result) bool {
		return r.Test == t.Name && r.Stage == stage && r.Seeds == t.Seeds
	})
}

// train works a training run off: each stage is trained, then scored on all tests.
func (r *Runner) train(ctx context.Context, j *job) error {
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		return err
	}
	record, err := ReadJob(j.dir)
	if errors.Is(err, fs.ErrNotExist) {
		record = Job{
			Method: j.run.Method, Seed: j.run.Seed, Commands: []string{}, Version: r.Version, Commit: r.Commit, Machine: r.Machine,
			Started: r.Now().UTC().Truncate(time.Second),
		}
		for _, s := range j.run.Stages {
			record.Stages = append(record.Stages, JobStage{Name: s.Name})
		}
	} else if err != nil {
		return err
	}
	if len(record.Stages) != len(j.run.Stages) {
		return fmt.Errorf("%w: %s was begun with %d stages, and now there are %d; give another --out", protocol.ErrConfig, j.dir, len(record.Stages), len(j.run.Stages))
	}
	j.use(&record)
	scores := filepath.Join(j.dir, ScoresFile)
	results, err := ReadResultsFile(scores)
	if err != nil {
		return err
	}
	for i := range j.run.Stages {
		if err := r.stage(ctx, j, i); err != nil {
			return err
		}
		for _, t := range r.Plan.Tests {
			if scoredOn(results, t.TestInfo, i+1) {
				continue
			}
			j.set(Testing, t.Name)
			scored, err := r.results(ctx, filepath.Join(j.dir, logFile), "evaluate", "--results", "--world-model",
				"--run", filepath.Join(j.dir, RunDir), "--config", r.testFile(t))
			if err != nil {
				return err
			}
			j.complete(scored, i, t)
			if err := AppendResults(scores, scored...); err != nil {
				return err
			}
		}
	}
	curve, err := RunCurve(filepath.Join(j.dir, RunDir))
	if err != nil {
		return err
	}
	if err := curve.Write(filepath.Join(j.dir, CurveFile)); err != nil {
		return err
	}
	return j.finish(r.Now())
}

// saveEvery bounds what a crash of the runner costs the clock of a job.
const saveEvery = 5 * time.Second

// stage trains a stage until its budget is used up, unless it is.
func (r *Runner) stage(ctx context.Context, j *job, i int) (err error) {
	s, used := j.run.Stages[i], j.stage(i)
	budget := s.Config.Budget
	left := budget.Duration - time.Duration(used.Minutes*float64(time.Minute))
	if used.Done || budget.Duration > 0 && left <= 0 {
		return nil
	}
	run := filepath.Join(j.dir, RunDir)
	config := filepath.Join(j.dir, fmt.Sprintf("train-%d.yaml", i+1))
	cfg := s.Config
	cfg.Run = r.busName(*j.run)
	document, err := cfg.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, document, 0o644); err != nil {
		return err
	}
	args := []string{"train", "--run", run, "--config", config}
	if budget.Duration > 0 {
		args = append(args, "--duration", left.Round(time.Millisecond).String())
	}
	if i > 0 {
		args = append(args, "--change-task")
	}
	log, err := openLog(filepath.Join(j.dir, logFile), args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	j.command(args)
	j.set(Training, s.Name)
	stop := r.keepTime(j, i)
	cpu, failed := r.Exec(ctx, Command{Args: args, Stdout: log, Log: log})
	if err := stop(cpu); err != nil {
		return err
	}
	if failed != nil {
		return log.explain(failed)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	used = j.stage(i)
	if used.Steps < budget.Steps && (budget.Duration == 0 || used.Minutes < budget.Duration.Minutes()) {
		return log.explain(errors.New("training was stopped before its budget was used up; the same command goes on"))
	}
	return j.done(i)
}

// keepTime counts a stage's time and steps until stop is called, and saves them.
func (r *Runner) keepTime(j *job, i int) (stop func(cpu time.Duration) error) {
	began, before := r.Now(), j.stage(i)
	run := filepath.Join(j.dir, RunDir)
	update := func(cpu time.Duration) error {
		now := before
		now.Minutes += r.Now().Sub(began).Minutes()
		now.CPUSeconds += cpu.Seconds()
		if steps, updates, err := progress(run); err == nil {
			now.Steps, now.Updates = steps, updates
		}
		return j.save(i, now)
	}
	end := make(chan struct{})
	var side sync.WaitGroup
	side.Go(func() {
		tick := time.NewTicker(saveEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				_ = update(0) // the last one reports what keeps failing
			}
		}
	})
	return func(cpu time.Duration) error {
		close(end)
		side.Wait()
		return update(cpu)
	}
}

// progress reads how far a run has come from the end of its metrics.
func progress(run string) (steps, updates int64, err error) {
	m, err := monitor.LastMetrics(run)
	return int64(m.Values[metricSteps]), m.Step, err
}

// busName names a run on a bus that it may share with others, those of other folders included.
func (r *Runner) busName(run Run) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := sha256.Sum256([]byte(r.manifest.Name + r.manifest.Scale + r.manifest.Started.String()))
	return fmt.Sprintf("%x-%s-%d", sum[:3], run.Method, run.Seed)
}
