package loadbalance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxLine bounds a line of a recorded episode: the jobs' line takes some 10
// bytes a job, so this is room for a million.
const maxLine = 16 << 20

// The lines of a recorded episode, as doc.go draws them. Pointers tell a field
// that is missing from a zero.
type (
	headerLine struct {
		Type       string    `json:"type"`
		Env        string    `json:"env"`
		Commit     string    `json:"commit,omitempty"`
		Seed       *uint32   `json:"seed,omitempty"`
		Policy     string    `json:"policy"`
		ResetObs   []float64 `json:"reset_obs"`
		ResetDtype string    `json:"reset_obs_dtype,omitempty"`
		ResetTime  *float64  `json:"reset_curr_time"`
		NumServers int       `json:"num_servers"`
		Rates      []float64 `json:"service_rates"`
		Interval   float64   `json:"job_interval,omitempty"`
		Shape      float64   `json:"job_size_pareto_shape,omitempty"`
		Scale      float64   `json:"job_size_pareto_scale,omitempty"`
		Jobs       int       `json:"num_stream_jobs"`
		ObsHigh    float64   `json:"load_balance_obs_high"`
	}
	jobsLine struct {
		Type string  `json:"type"`
		Gap  []int64 `json:"dt"`
		Size []int64 `json:"size"`
	}
	stepLine struct {
		Type   string    `json:"type"`
		Action *int      `json:"a"`
		Obs    []float64 `json:"o"`
		Reward *float64  `json:"r"`
		Done   *bool     `json:"d"`
		Time   *float64  `json:"t"`
	}
	summaryLine struct {
		Type     string   `json:"type"`
		Steps    *float64 `json:"steps"`
		Total    *float64 `json:"total_reward"`
		Finished *float64 `json:"finished_jobs"`
		MeanJCT  *float64 `json:"mean_job_completion_time"`
		Time     *float64 `json:"final_time"`
		Clipped  *float64 `json:"clip_warnings,omitempty"`
		Dtypes   []string `json:"obs_dtypes,omitempty"`
	}
)

const parkEnv = "park load_balance"

// Mismatch is the first place where a recorded episode differs from the
// simulator.
type Mismatch struct {
	Line      int    // of the file, from 1
	Step      int    // from 0; -1 outside the steps
	Field     string // as in the file, such as o[3], r or total_reward
	Got, Want string // in the file, and simulated
}

func (m *Mismatch) Error() string {
	where := ""
	if m.Step >= 0 {
		where = fmt.Sprintf(", step %d", m.Step)
	}
	return fmt.Sprintf("line %d%s: %s is %s, simulated %s", m.Line, where, m.Field, m.Got, m.Want)
}

// FormatError is a file that is no recorded episode.
type FormatError struct {
	Line int // from 1
	Err  error
}

func (e *FormatError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *FormatError) Unwrap() error { return e.Err }

// Verify replays a recorded episode, plain or gzipped, and compares every job,
// observation, reward, done flag and time with the simulator's, to the last
// digit. Jobs are drawn again from the header's seed; without a seed they are
// taken from the file. It returns a *Mismatch or a *FormatError, or an error of
// reading.
func Verify(r io.Reader) error {
	in, err := plain(r)
	if err != nil {
		return &FormatError{1, cutShort(err)}
	}
	v := verifier{lines: bufio.NewScanner(in), step: -1}
	v.lines.Buffer(nil, maxLine)
	if err := v.episode(); err != nil {
		return err
	}
	if scanLine(v.lines, &v.line) {
		return v.malformed("more after the summary")
	}
	return v.readError()
}

type verifier struct {
	lines *bufio.Scanner
	line  int
	step  int
	sim   Sim
	obs   []float64
	clips int
}

func (v *verifier) malformed(format string, args ...any) error {
	return &FormatError{v.line, fmt.Errorf(format, args...)}
}

// readError is why the scanner stopped; nil at the end of the file.
func (v *verifier) readError() error {
	err := v.lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return &FormatError{v.line + 1, fmt.Errorf("longer than %d bytes", maxLine)}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{v.line + 1, cutShort(err)}
	}
	if err != nil {
		return fmt.Errorf("loadbalance: after line %d: %w", v.line, err)
	}
	return nil
}

// read decodes the next line into dst.
func (v *verifier) read(kind string, dst any) error {
	if !scanLine(v.lines, &v.line) {
		if err := v.readError(); err != nil {
			return err
		}
		return &FormatError{v.line + 1, fmt.Errorf("the file ends where a line of type %s belongs", kind)}
	}
	var line struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(v.lines.Bytes(), &line); err != nil {
		return v.malformed("%w", err)
	}
	if line.Type != kind {
		return v.malformed("type is %q, want %q", line.Type, kind)
	}
	if err := json.Unmarshal(v.lines.Bytes(), dst); err != nil {
		return v.malformed("%w", err)
	}
	return nil
}

func (v *verifier) compare(field string, got *float64, want float64) error {
	if got == nil {
		return v.malformed("%s is missing", field)
	}
	if *got != want {
		return v.mismatch(field, number(*got), number(want))
	}
	return nil
}

func (v *verifier) mismatch(field, got, want string) error {
	return &Mismatch{Line: v.line, Step: v.step, Field: field, Got: got, Want: want}
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func (v *verifier) compareObs(field string, got []float64) error {
	if len(got) != len(v.obs) {
		return v.malformed("%s has %d values, want %d", field, len(got), len(v.obs))
	}
	v.clips += v.sim.Observe(v.obs)
	for i := range got {
		if err := v.compare(fmt.Sprintf("%s[%d]", field, i), &got[i], v.obs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) episode() error {
	var header headerLine
	if err := v.read("header", &header); err != nil {
		return err
	}
	if err := v.checkHeader(&header); err != nil {
		return err
	}
	var recorded jobsLine
	if err := v.read("jobs", &recorded); err != nil {
		return err
	}
	jobs, err := v.episodeJobs(&header, &recorded)
	if err != nil {
		return err
	}
	v.sim.ObsHigh = header.ObsHigh
	if err := v.sim.Reset(header.Rates, header.Jobs, &jobs); err != nil {
		return v.malformed("%w", err)
	}
	v.obs = make([]float64, header.NumServers+1)
	// What the header says of the first observation is on line 1.
	jobsLine := v.line
	v.line = 1
	if err := v.compareObs("reset_obs", header.ResetObs); err != nil {
		return err
	}
	if err := v.compare("reset_curr_time", header.ResetTime, float64(v.sim.Time())); err != nil {
		return err
	}
	v.line = jobsLine
	for v.step = 0; !v.sim.Done(); v.step++ {
		if err := v.replay(); err != nil {
			return err
		}
	}
	steps := v.step
	v.step = -1
	return v.checkSummary(steps)
}

func (v *verifier) checkHeader(h *headerLine) error {
	switch {
	case h.Env != parkEnv:
		return v.malformed("env is %q, want %q", h.Env, parkEnv)
	case len(h.Rates) != h.NumServers:
		return v.malformed("%d service_rates, want num_servers, which is %d", len(h.Rates), h.NumServers)
	case h.Jobs < 1 || h.Jobs > MaxJobs:
		return v.malformed("num_stream_jobs is %d, want 1 to %d", h.Jobs, MaxJobs)
	case !(h.ObsHigh > 0):
		return v.malformed("load_balance_obs_high is %g, want above 0", h.ObsHigh)
	case h.Seed == nil:
		return nil
	case !(h.Interval > 0 && h.Shape > 0 && h.Scale > 0):
		return v.malformed("job_interval, job_size_pareto_shape and job_size_pareto_scale are %g, %g and %g, want above 0",
			h.Interval, h.Shape, h.Scale)
	}
	return nil
}

// episodeJobs checks the recorded jobs against those of the seed.
func (v *verifier) episodeJobs(h *headerLine, l *jobsLine) (JobList, error) {
	if len(l.Gap) != h.Jobs || len(l.Size) != h.Jobs {
		return nil, v.malformed("%d dt and %d size, want num_stream_jobs, which is %d", len(l.Gap), len(l.Size), h.Jobs)
	}
	jobs := make(JobList, h.Jobs)
	for k := range jobs {
		jobs[k] = Job{Gap: l.Gap[k], Size: l.Size[k]}
	}
	if h.Seed == nil {
		return jobs, nil
	}
	src := NewParkSource(*h.Seed, h.Interval, h.Shape, h.Scale)
	for k, j := range jobs {
		want, err := src.Next()
		if err != nil {
			return nil, fmt.Errorf("loadbalance: job %d: %w", k, err)
		}
		if j.Gap != want.Gap {
			return nil, v.mismatch(fmt.Sprintf("dt[%d]", k), fmt.Sprint(j.Gap), fmt.Sprint(want.Gap))
		}
		if j.Size != want.Size {
			return nil, v.mismatch(fmt.Sprintf("size[%d]", k), fmt.Sprint(j.Size), fmt.Sprint(want.Size))
		}
	}
	return jobs, nil
}

func (v *verifier) replay() error {
	var l stepLine
	if err := v.read("step", &l); err != nil {
		return err
	}
	if l.Action == nil || l.Done == nil {
		return v.malformed("a or d is missing")
	}
	reward, _, done, err := v.sim.Step(*l.Action)
	if err != nil {
		return v.malformed("%w", err)
	}
	if err := v.compareObs("o", l.Obs); err != nil {
		return err
	}
	if err := v.compare("r", l.Reward, reward); err != nil {
		return err
	}
	if *l.Done != done {
		return v.mismatch("d", fmt.Sprint(*l.Done), fmt.Sprint(done))
	}
	return v.compare("t", l.Time, float64(v.sim.Time()))
}

func (v *verifier) checkSummary(steps int) error {
	var l summaryLine
	if err := v.read("summary", &l); err != nil {
		return err
	}
	want := v.summary(steps)
	if l.Clipped == nil {
		l.Clipped = want.Clipped // Park logs these; not every recorder counts them
	}
	for _, f := range []struct {
		name      string
		got, want *float64
	}{
		{"steps", l.Steps, want.Steps},
		{"total_reward", l.Total, want.Total},
		{"finished_jobs", l.Finished, want.Finished},
		{"mean_job_completion_time", l.MeanJCT, want.MeanJCT},
		{"final_time", l.Time, want.Time},
		{"clip_warnings", l.Clipped, want.Clipped},
	} {
		if err := v.compare(f.name, f.got, *f.want); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) summary(steps int) summaryLine {
	value := func(f float64) *float64 { return &f }
	return summaryLine{
		Type:     "summary",
		Steps:    value(float64(steps)),
		Total:    value(v.sim.Return()),
		Finished: value(float64(v.sim.Finished())),
		MeanJCT:  value(v.sim.MeanJCT()),
		Time:     value(float64(v.sim.Time())),
		Clipped:  value(float64(v.clips)),
	}
}
