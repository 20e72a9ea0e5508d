package experiment

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// States of a job.
const (
	Waiting  = "waiting"
	Training = "training"
	Testing  = "testing"
	Done     = "done"
	Failed   = "failed"
	Stopped  = "stopped"
)

// job is a training run with its tests, or the rules' scores on a test. Its record is written by one worker and read
// by whoever looks.
type job struct {
	name string
	test *Test
	run  *Run
	dir  string

	mu     sync.Mutex
	record *Job
	state  string
	detail string // the stage or test
	err    error
}

func (j *job) set(state, detail string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state, j.detail = state, detail
}

func (j *job) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state, j.err = Failed, err
}

func (j *job) use(record *Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.record = record
}

func (j *job) stage(i int) JobStage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.record.Stages[i]
}

// save writes the record with a stage as it is now.
func (j *job) save(i int, s JobStage) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.record
	r.Stages[i] = s
	r.Minutes, r.CPUSeconds = 0, 0
	for _, s := range r.Stages {
		r.Minutes += s.Minutes
		r.CPUSeconds += s.CPUSeconds
		r.Steps, r.Updates = max(r.Steps, s.Steps), max(r.Updates, s.Updates)
	}
	return r.Write(j.dir)
}

func (j *job) done(i int) error {
	s := j.stage(i)
	s.Done = true
	return j.save(i, s)
}

func (j *job) finish(now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.record.Finished != nil {
		return nil
	}
	now = now.UTC().Truncate(time.Second)
	j.record.Finished = &now
	return j.record.Write(j.dir)
}

// command keeps a command line, each once.
func (j *job) command(args []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := commandLine(args)
	if n := len(j.record.Commands); n == 0 || j.record.Commands[n-1] != line {
		j.record.Commands = append(j.record.Commands, line)
	}
}

func commandLine(args []string) string { return "dreamfleet " + strings.Join(args, " ") }

// complete fills in what an evaluation does not know.
func (j *job) complete(results []Result, stage int, t Test) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var minutes float64
	for _, s := range j.record.Stages[:stage+1] {
		minutes += s.Minutes
	}
	for i := range results {
		r := &results[i]
		r.Method, r.Seed, r.Stage, r.After = j.run.Method, j.run.Seed, stage+1, j.run.Stages[stage].Name
		r.Test, r.Inside = t.Name, t.Inside
		r.Steps, r.Minutes = j.record.Stages[stage].Steps, minutes
	}
}

// Status is how far a job has come.
type Status struct {
	Name, State string
	Detail      string // the stage that is trained, or the test
	Err         error  // of a job that failed

	Steps, StepLimit int64
	Minutes          float64 // that it has trained for
	MinuteLimit      float64
}

// Share is the part of a job's training that is behind it, 0 to 1, by whichever budget is nearer to its end.
func (s Status) Share() float64 {
	if s.State == Done {
		return 1
	}
	var share float64
	if s.StepLimit > 0 {
		share = float64(s.Steps) / float64(s.StepLimit)
	}
	if s.MinuteLimit > 0 {
		share = max(share, s.Minutes/s.MinuteLimit)
	}
	return min(share, 1)
}

// Status lists all jobs in their order.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	jobs := r.jobs
	r.mu.Unlock()
	list := make([]Status, len(jobs))
	for i, j := range jobs {
		list[i] = j.status()
	}
	return list
}

func (j *job) status() Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Status{Name: j.name, State: j.state, Detail: j.detail, Err: j.err}
	if s.State == "" {
		s.State = Waiting
	}
	if j.run == nil {
		return s
	}
	s.MinuteLimit = j.run.Minutes()
	s.StepLimit = j.run.Stages[len(j.run.Stages)-1].Config.Budget.Steps
	if j.record != nil {
		s.Steps, s.Minutes = j.record.Steps, j.record.Minutes
	}
	return s
}

// TimeLeft estimates how long the rest takes at most, from the time that the jobs begun so far needed for what they
// did; ok is false before anything is known.
func TimeLeft(jobs []Status, parallel int) (left time.Duration, ok bool) {
	var minutes float64
	for _, s := range jobs {
		switch {
		case s.State == Done || s.State == Failed || s.MinuteLimit == 0 && s.StepLimit == 0:
		case s.Minutes > 0 && s.Share() > 0:
			minutes += s.Minutes * (1 - s.Share()) / s.Share()
			ok = true
		case s.MinuteLimit > 0:
			minutes += s.MinuteLimit
			ok = true
		default:
			return 0, false // only steps, and no job like it has begun
		}
	}
	return time.Duration(minutes / float64(max(parallel, 1)) * float64(time.Minute)), ok
}

// jobLog is where a job's commands say what they do. It keeps the last lines.
type jobLog struct {
	file *os.File
	path string
	from int64 // where the command's part begins
}

func openLog(path string, args []string) (*jobLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = fmt.Fprintf(f, "$ %s\n", commandLine(args))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &jobLog{file: f, path: path, from: info.Size()}, nil
}

func (l *jobLog) Write(p []byte) (int, error) { return l.file.Write(p) }
func (l *jobLog) Close() error                { return l.file.Close() }

// shownLines of a log explain a failure.
const shownLines = 5

// explain adds the last lines of a failed command's log.
func (l *jobLog) explain(err error) error {
	f, openErr := os.Open(l.path)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	defer f.Close()
	if _, seekErr := f.Seek(l.from, 0); seekErr != nil {
		return errors.Join(err, seekErr)
	}
	var last []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if text := strings.TrimSpace(s.Text()); text != "" {
			last = append(last, "    "+text)
		}
		last = last[max(0, len(last)-shownLines):]
	}
	return fmt.Errorf("%w; %s ends with\n%s", err, l.path, strings.Join(last, "\n"))
}
