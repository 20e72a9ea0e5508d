package experiment

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/dreamfleet/dreamfleet/monitor"
)

// Names of values in a run's metrics.
const (
	// MetricSeconds is the wall-clock since the process began, so that a run's own time is known over restarts.
	MetricSeconds = "run/seconds"
	metricSteps   = "env/steps"
	evaluated     = "evaluation/" // and a policy's name, which ends as follows
	greedySuffix  = "_greedy"
	sampledSuffix = "_sampled"
)

// LearningCurve has the evaluations of a run while it trained: by environment steps and minutes of wall-clock time, the
// IQM of the ratios to LEFT of the greedy and of the sampled policy, NaN where it was not measured.
type LearningCurve struct {
	Steps, Minutes, Greedy, Sampled []float64
}

// RunCurve takes the evaluations from a run folder's metrics. Time counts while a process of the run was training,
// over all of its restarts; of runs whose metrics do not say so it is the time since the first line.
func RunCurve(dir string) (LearningCurve, error) {
	metrics, err := monitor.ReadMetrics(dir)
	if err != nil {
		return LearningCurve{}, err
	}
	var c LearningCurve
	var before, latest float64 // seconds: of earlier processes, and of this one
	var began, last float64    // the clock at the first line, and at the latest
	for _, m := range metrics {
		if began == 0 {
			began = m.Time
		}
		elapsed := m.Time - began
		if seconds, ok := m.Values[MetricSeconds]; ok {
			// A process that began after the last line is another one. An evaluation is written when it is done, with
			// the time at which it began, and lines from then on may stand before it.
			if last > 0 && m.Time-seconds > last {
				before, latest = before+latest, 0
			}
			latest = max(latest, seconds)
			elapsed = before + seconds
		}
		last = max(last, m.Time)
		greedy, sampled, ok := evaluation(m.Values)
		if !ok {
			continue
		}
		c.Steps = append(c.Steps, m.Values[metricSteps])
		c.Minutes = append(c.Minutes, elapsed/60)
		c.Greedy = append(c.Greedy, greedy)
		c.Sampled = append(c.Sampled, sampled)
	}
	return c, nil
}

// evaluation finds the scores of a learned policy, whatever the algorithm is called.
func evaluation(values map[string]float64) (greedy, sampled float64, ok bool) {
	for name, value := range values {
		name, found := strings.CutPrefix(name, evaluated)
		if method, is := strings.CutSuffix(name, greedySuffix); found && is {
			return value, values[evaluated+method+sampledSuffix], true
		}
	}
	return 0, 0, false
}

// Write writes the curve as CSV.
func (c LearningCurve) Write(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("learning curve: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	rows := [][]string{{"environment_steps", "minutes", Greedy, Sampled}}
	for i := range c.Steps {
		rows = append(rows, []string{number(c.Steps[i]), number(c.Minutes[i]), number(c.Greedy[i]), number(c.Sampled[i])})
	}
	return csv.NewWriter(f).WriteAll(rows)
}

// maxCurveRows bounds a curve: an evaluation a second for a day.
const maxCurveRows = 100_000

// ReadLearningCurve reads the columns environment_steps, minutes, greedy and sampled of a table with a header line, in
// any order and among others.
func ReadLearningCurve(in io.Reader) (LearningCurve, error) {
	var c LearningCurve
	r := csv.NewReader(in)
	header, err := r.Read()
	if err != nil {
		return c, fmt.Errorf("%w: learning curve: %w", ErrResult, err)
	}
	columns := []struct {
		name string
		into *[]float64
	}{{"environment_steps", &c.Steps}, {"minutes", &c.Minutes}, {Greedy, &c.Greedy}, {Sampled, &c.Sampled}}
	for _, column := range columns {
		if !slices.Contains(header, column.name) {
			return c, fmt.Errorf("%w: learning curve has the columns %s, but no %s", ErrResult, strings.Join(header, ","), column.name)
		}
	}
	for line := 2; ; line++ {
		row, err := r.Read()
		if err == io.EOF {
			return c, nil
		}
		if err != nil {
			return c, fmt.Errorf("%w: learning curve: %w", ErrResult, err)
		}
		if line > maxCurveRows {
			return c, fmt.Errorf("%w: learning curve has more than %d rows", ErrResult, maxCurveRows)
		}
		for _, column := range columns {
			text, v := row[slices.Index(header, column.name)], math.NaN()
			if text != "" {
				if v, err = strconv.ParseFloat(text, 64); err != nil {
					return c, fmt.Errorf("%w: learning curve: line %d: %s is %.40q, no number", ErrResult, line, column.name, text)
				}
			}
			*column.into = append(*column.into, v)
		}
		for _, x := range [][]float64{c.Steps, c.Minutes} {
			n := len(x)
			if v := x[n-1]; !(v >= 0) || math.IsInf(v, 1) || n > 1 && v < x[n-2] {
				return c, fmt.Errorf("%w: learning curve: line %d: steps and minutes do not ascend from 0", ErrResult, line)
			}
		}
	}
}

// readLearningCurve reads a file; one that does not exist has no point.
func readLearningCurve(path string) (LearningCurve, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return LearningCurve{}, nil
	}
	if err != nil {
		return LearningCurve{}, err
	}
	defer f.Close()
	c, err := ReadLearningCurve(f)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// of returns the ratios of a mode.
func (c LearningCurve) of(mode string) []float64 {
	if mode == Greedy {
		return c.Greedy
	}
	return c.Sampled
}
