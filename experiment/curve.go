package experiment

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
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

// Curve is a learning curve: evaluations while training. Ratios are IQMs of mean job completion times over LEFT's on
// the run's evaluation seeds.
type Curve struct {
	Steps, Minutes  []float64 // environment steps and the run's own wall-clock
	Greedy, Sampled []float64
}

// ReadCurve takes the evaluations from a run folder's metrics. Time counts while a process of the run was training,
// over all of its restarts; of runs whose metrics do not say so it is the time since the first line.
func ReadCurve(dir string) (Curve, error) {
	metrics, err := monitor.ReadMetrics(dir)
	if err != nil {
		return Curve{}, err
	}
	var c Curve
	var before, latest, began float64 // seconds: of earlier processes, of this one, and the clock at the first line
	for _, m := range metrics {
		if began == 0 {
			began = m.Time
		}
		elapsed := m.Time - began
		if seconds, ok := m.Values[MetricSeconds]; ok {
			if seconds < latest {
				before += latest
			}
			latest = seconds
			elapsed = before + latest
		}
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
func (c Curve) Write(path string) (err error) {
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
