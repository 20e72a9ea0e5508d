package experiment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Files of an experiment's folder, and of each of its jobs below METHOD/seed-N.
const (
	ManifestFile = "experiment.json"
	RulesFile    = "rules.jsonl"
	JobFile      = "job.json"
	ScoresFile   = "scores.jsonl"
	CurveFile    = "curve.csv"
	RunDir       = "run"
)

// JobDir is the folder of a method's training run with a seed.
func JobDir(dir, method string, seed uint64) string {
	return filepath.Join(dir, method, fmt.Sprintf("seed-%d", seed))
}

// Modes of a Result: how the actions were chosen.
const (
	Greedy  = "greedy"  // the policy's most probable action
	Sampled = "sampled" // drawn from the policy
	Rule    = "rule"    // by a heuristic
)

// ErrResult is the cause of every error about the content of an experiment's files.
var ErrResult = errors.New("experiment results")

// Result is what one policy did in one episode of the trials of a test.
type Result struct {
	Method  string  `json:"method"`  // of the experiment, or a rule's name
	Seed    uint64  `json:"seed"`    // of training, 0 for a rule
	Stage   int     `json:"stage"`   // tasks of a sequence trained so far; 1 where there is one, 0 before any training
	After   string  `json:"after"`   // name of the task trained last
	Test    string  `json:"test"`    // name of the task or distribution of tasks that was played
	Inside  bool    `json:"inside"`  // whether the test lies inside what was trained on
	Mode    string  `json:"mode"`    // Greedy, Sampled or Rule
	Episode int     `json:"episode"` // of the trial, from 1
	Steps   int64   `json:"steps"`   // environment steps trained
	Minutes float64 `json:"minutes"` // wall-clock minutes trained
	Seeds   string  `json:"seeds"`   // evaluation seeds, such as 3000-3999
	// MeanJCT is the mean job completion time, in time units, of each evaluation seed's episode. Results of the same
	// test, seeds and episode are paired: all met the same jobs and servers.
	MeanJCT []float64 `json:"mean_jct"`
	// Model has the world model's losses on held-back sequences of the test, by name, where they were measured.
	Model map[string]float64 `json:"model,omitempty"`
}

// Machine is the hardware that numbers were taken on.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Kernel string `json:"kernel"` // vector instructions that the networks use
}

// Job is one training run of an experiment: a method with a seed.
type Job struct {
	Method     string     `json:"method"`
	Seed       uint64     `json:"seed"`
	Commands   []string   `json:"commands"` // command lines, in order
	Version    string     `json:"version"`
	Commit     string     `json:"commit"`
	Machine    Machine    `json:"machine"`
	Minutes    float64    `json:"minutes"` // wall-clock of its own processes while they trained, over all restarts
	CPUSeconds float64    `json:"cpu_seconds"`
	Steps      int64      `json:"steps"` // environment steps
	Updates    int64      `json:"updates"`
	Started    time.Time  `json:"started"`
	Finished   *time.Time `json:"finished"` // null while it is not
	Stages     []JobStage `json:"stages"`
}

// JobStage is what a job has used of a stage's budget. Steps and updates are those of the run when it ended.
type JobStage struct {
	Name       string  `json:"name"`
	Done       bool    `json:"done"` // its budget is used up
	Minutes    float64 `json:"minutes"`
	CPUSeconds float64 `json:"cpu_seconds"`
	Steps      int64   `json:"steps"`
	Updates    int64   `json:"updates"`
}

// TestInfo describes a test of an experiment.
type TestInfo struct {
	Name     string `json:"name"`
	Inside   bool   `json:"inside"`
	Seeds    string `json:"seeds"`
	Episodes int    `json:"episodes"` // of a trial
}

// Manifest is an experiment as it was resolved.
type Manifest struct {
	Name     string     `json:"name"`
	Question string     `json:"question"`
	Scale    string     `json:"scale"`
	Methods  []string   `json:"methods"`
	Stages   []string   `json:"stages"` // tasks trained one after another, in order; one where there is no sequence
	Tests    []TestInfo `json:"tests"`
	Rules    []string   `json:"rules"`
	Seeds    []uint64   `json:"seeds"` // of training
	Version  string     `json:"version"`
	Commit   string     `json:"commit"`
	Machine  Machine    `json:"machine"`
	Started  time.Time  `json:"started"`
}

// Bounds on what is read back. A line of 100,000 seeds has 2 MB.
const (
	maxResultsBytes = 1 << 30
	maxResultBytes  = 4 << 20
	maxRecordBytes  = 1 << 20
)

// Check reports the first value that no run of an experiment writes.
func (r *Result) Check() error {
	switch {
	case !protocol.ValidName(r.Method):
		return fmt.Errorf("%w: method is %q, want at most %d letters, digits, - and _", ErrResult, r.Method, protocol.MaxName)
	case !protocol.ValidName(r.Test):
		return fmt.Errorf("%w: test is %q, want at most %d letters, digits, - and _", ErrResult, r.Test, protocol.MaxName)
	case r.After != "" && !protocol.ValidName(r.After):
		return fmt.Errorf("%w: after is %q, want at most %d letters, digits, - and _", ErrResult, r.After, protocol.MaxName)
	case r.Mode != Greedy && r.Mode != Sampled && r.Mode != Rule:
		return fmt.Errorf("%w: mode is %q, want %s, %s or %s", ErrResult, r.Mode, Greedy, Sampled, Rule)
	case r.Stage < 0 || r.Episode < 1:
		return fmt.Errorf("%w: stage %d and episode %d, want at least 0 and 1", ErrResult, r.Stage, r.Episode)
	case r.Steps < 0 || !(r.Minutes >= 0) || math.IsInf(r.Minutes, 1):
		return fmt.Errorf("%w: %d steps in %g minutes, want at least 0", ErrResult, r.Steps, r.Minutes)
	}
	seeds, err := protocol.ParseSeeds(r.Seeds)
	if err != nil {
		return fmt.Errorf("%w: seeds: %w", ErrResult, err)
	}
	if len(seeds) != len(r.MeanJCT) {
		return fmt.Errorf("%w: mean_jct has %d values, want one for each of the %d seeds %s", ErrResult, len(r.MeanJCT), len(seeds), r.Seeds)
	}
	for i, jct := range r.MeanJCT {
		if !(jct > 0) || math.IsInf(jct, 1) {
			return fmt.Errorf("%w: mean_jct of seed %d is %g, want a finite number above 0", ErrResult, seeds[i], jct)
		}
	}
	for name, value := range r.Model {
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return fmt.Errorf("%w: model loss %.40q is %g, want a finite number", ErrResult, name, value)
		}
	}
	return nil
}

// WriteJSON writes the result as one line.
func (r *Result) WriteJSON(w io.Writer) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrResult, err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// ReadResults reads lines of results, each checked; errors name the line. A last line without its end, which a crash
// leaves, is left out.
func ReadResults(in io.Reader) ([]Result, error) {
	content, err := readBounded(in, maxResultsBytes)
	if err != nil {
		return nil, err
	}
	var results []Result
	for n := 1; ; n++ {
		line, rest, ended := bytes.Cut(content, []byte("\n"))
		if !ended {
			return results, nil
		}
		content = rest
		if len(line) > maxResultBytes {
			return nil, fmt.Errorf("%w: line %d has %d bytes, more than %d", ErrResult, n, len(line), maxResultBytes)
		}
		var r Result
		if err := decodeStrictly(line, &r); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		results = append(results, r)
	}
}

// ReadResultsFile reads a file of results; one that does not exist has none.
func ReadResultsFile(path string) ([]Result, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	results, err := ReadResults(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return results, nil
}

// AppendResults adds lines to a file of results, all or none of which are on the disk when it returns. What a crash
// left of a line is cut off first.
func AppendResults(path string, results ...Result) (err error) {
	var lines bytes.Buffer
	for i := range results {
		if err := results[i].Check(); err != nil {
			return err
		}
		if err := results[i].WriteJSON(&lines); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end, err := endOfLines(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.WriteAt(lines.Bytes(), end); err != nil {
		return errors.Join(err, f.Truncate(end))
	}
	return f.Sync()
}

// endOfLines is the offset behind the last whole line.
func endOfLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(info.Size(), maxResultBytes+1))
	from := info.Size() - int64(len(tail))
	if _, err := f.ReadAt(tail, from); err != nil {
		return 0, err
	}
	at := bytes.LastIndexByte(tail, '\n')
	if at < 0 && from > 0 {
		return 0, fmt.Errorf("%w: the last %d bytes are no lines", ErrResult, len(tail))
	}
	return from + int64(at) + 1, nil
}

// Check reports the first value that no run of an experiment writes.
func (j *Job) Check() error {
	if !protocol.ValidName(j.Method) {
		return fmt.Errorf("%w: method is %q, want at most %d letters, digits, - and _", ErrResult, j.Method, protocol.MaxName)
	}
	if !(j.Minutes >= 0 && j.CPUSeconds >= 0) || j.Steps < 0 || j.Updates < 0 {
		return fmt.Errorf("%w: %g minutes, %g seconds of CPU, %d steps, %d updates, want at least 0 of each", ErrResult, j.Minutes, j.CPUSeconds, j.Steps, j.Updates)
	}
	return nil
}

// Check reports the first value that no run of an experiment writes.
func (m *Manifest) Check() error {
	names := slices.Concat([]string{m.Name}, m.Methods, m.Stages, m.Rules)
	for _, t := range m.Tests {
		names = append(names, t.Name)
		if _, err := protocol.ParseSeeds(t.Seeds); err != nil || t.Episodes < 1 {
			return fmt.Errorf("%w: test %q has seeds %q and %d episodes a trial", ErrResult, t.Name, t.Seeds, t.Episodes)
		}
	}
	for _, name := range names {
		if !protocol.ValidName(name) {
			return fmt.Errorf("%w: name is %q, want at most %d letters, digits, - and _", ErrResult, name, protocol.MaxName)
		}
	}
	return nil
}

// ReadJob reads a job's record from its folder. The error is fs.ErrNotExist where it has not begun.
func ReadJob(dir string) (Job, error) {
	var j Job
	return j, readRecord(filepath.Join(dir, JobFile), &j)
}

// Write replaces a job's record in its folder.
func (j *Job) Write(dir string) error { return writeRecord(filepath.Join(dir, JobFile), j) }

// ReadManifest reads what an experiment's folder is of.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	return m, readRecord(filepath.Join(dir, ManifestFile), &m)
}

// Write replaces the manifest in an experiment's folder.
func (m *Manifest) Write(dir string) error { return writeRecord(filepath.Join(dir, ManifestFile), m) }

type record interface{ Check() error }

func readRecord(path string, r record) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := readBounded(f, maxRecordBytes)
	if err == nil {
		err = decodeStrictly(content, r)
	}
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeRecord writes aside and renames, so that a crash leaves the old record or the new one.
func writeRecord(path string, r record) error {
	if err := r.Check(); err != nil {
		return err
	}
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrResult, err)
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(content, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readBounded(in io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrResult, limit)
	}
	return content, nil
}

// decodeStrictly refuses keys that it does not know: of two programs' versions the older must not guess.
func decodeStrictly(content []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrResult, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one JSON value", ErrResult)
	}
	return nil
}
