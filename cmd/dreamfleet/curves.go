package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/monitor"
)

func newCurvesCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "curves RUN...",
		Short: "Draw the learning curves of runs",
		Long: `Draw the evaluations of one or more runs beside the heuristics, by environment steps and by minutes
of wall-clock time, and write what is drawn as a table. Ratios are IQMs of mean job completion times
over LEFT's on the same jobs; runs are expected to share their evaluation seeds.`,
		Example: `  dreamfleet curves --out curves runs/small-0 runs/small-1 runs/small-2`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, runs []string) error {
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			return drawCurves(cmd.Context(), out, runs)
		},
	}
	cmd.Flags().StringVar(&out, "out", ".", "`folder` for steps.png, minutes.png and curves.csv")
	must(cmd.MarkFlagDirname("out"))
	return cmd
}

// evaluations are the points of one run's learning curve.
type evaluations struct {
	run                             string
	steps, minutes, greedy, sampled []float64
}

func drawCurves(ctx context.Context, out string, runs []string) error {
	var all []evaluations
	for _, dir := range runs {
		e, err := readEvaluations(dir)
		if err != nil {
			return err
		}
		all = append(all, e)
	}
	levels, err := heuristicLevels(ctx, runs[0])
	if err != nil {
		return err
	}
	for file, axis := range map[string]struct {
		label string
		x     func(evaluations) []float64
	}{
		"steps.png":   {"environment steps", func(e evaluations) []float64 { return e.steps }},
		"minutes.png": {"minutes", func(e evaluations) []float64 { return e.minutes }},
	} {
		chart := monitor.Chart{
			Title:  fmt.Sprintf("Mean job completion time over LEFT's (IQM), from where it stays below %g", highestShown),
			XLabel: axis.label, YLabel: "ratio to LEFT", Levels: levels,
		}
		for _, e := range all {
			chart.Curves = append(chart.Curves, monitor.Curve{Name: e.run + " greedy", X: axis.x(e), Y: shown(e.greedy)})
		}
		for _, e := range all {
			chart.Curves = append(chart.Curves, monitor.Curve{Name: e.run + " sampled", X: axis.x(e), Y: shown(e.sampled)})
		}
		if err := chart.SavePNG(filepath.Join(out, file)); err != nil {
			return err
		}
	}
	return writeCurves(filepath.Join(out, "curves.csv"), all)
}

// highestShown bounds what is drawn: an untrained policy is at 20 to 200, and where curves end, at
// 1, a hundredth matters.
const highestShown = 2.5

// shown leaves out what comes before the ratio stays within what is drawn.
func shown(ratios []float64) []float64 {
	drawn := slices.Clone(ratios)
	for i := len(drawn) - 1; i >= 0; i-- {
		if drawn[i] > highestShown {
			for j := range drawn[:i+1] {
				drawn[j] = math.NaN()
			}
			break
		}
	}
	return drawn
}

func readEvaluations(dir string) (evaluations, error) {
	metrics, err := monitor.ReadMetrics(dir)
	if err != nil {
		return evaluations{}, err
	}
	e := evaluations{run: filepath.Base(dir)}
	var began float64
	for _, m := range metrics {
		if began == 0 {
			began = m.Time
		}
		i := slices.IndexFunc(algorithms, func(a string) bool { _, ok := m.Values["evaluation/"+policyName(a, true)]; return ok })
		if i < 0 {
			continue
		}
		e.steps = append(e.steps, m.Values["env/steps"])
		e.minutes = append(e.minutes, (m.Time-began)/60)
		e.greedy = append(e.greedy, m.Values["evaluation/"+policyName(algorithms[i], true)])
		e.sampled = append(e.sampled, m.Values["evaluation/"+policyName(algorithms[i], false)])
	}
	if len(e.steps) == 0 {
		return e, fmt.Errorf("%s has no evaluations", dir)
	}
	return e, nil
}

// heuristicLevels scores what the curves are compared with.
func heuristicLevels(ctx context.Context, dir string) ([]monitor.Level, error) {
	cfg, err := savedConfig(dir)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(cfg)
	if err != nil {
		return nil, err
	}
	e, err := newEvaluator(ctx, cfg, w, cfg.Evaluate.Seeds, cfg.Evaluate.Jobs)
	if err != nil {
		return nil, err
	}
	var levels []monitor.Level
	for _, name := range []string{"least_load", "left", "sita2_left", "index"} {
		scores, err := e.heuristic(ctx, name)
		if err != nil {
			return nil, err
		}
		report, err := experiment.NewTrialReport(scores, e.left)
		if err != nil {
			return nil, err
		}
		levels = append(levels, monitor.Level{Name: name, Y: report.RatioToLEFT.IQM})
	}
	return levels, nil
}

func writeCurves(path string, all []evaluations) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := csv.NewWriter(f)
	rows := [][]string{{"run", "environment_steps", "minutes", "greedy", "sampled"}}
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	for _, e := range all {
		for i := range e.steps {
			rows = append(rows, []string{e.run, number(e.steps[i]), number(e.minutes[i]), number(e.greedy[i]), number(e.sampled[i])})
		}
	}
	return w.WriteAll(rows)
}
