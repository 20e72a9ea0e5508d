package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

// imaginedTrials is how many of the trials, at most, the imagination is compared on: of Park's 30 000 jobs as many as
// 30 lie beyond the last quantile.
const imaginedTrials = 30

// writeImagination plays the trials and writes, for each value of an observation, quantiles of what happened and of
// what the world model predicted.
func (e *evaluator) writeImagination(ctx context.Context, blob []byte, greedy bool, dir string, out io.Writer, log hclog.Logger) error {
	if onPolicy(e.cfg) {
		return fmt.Errorf("%w: --imagination: %s has no world model", protocol.ErrConfig, e.cfg.Learner.Algorithm)
	}
	spec := e.world.spec
	notes := &witness{obsLen: spec.Obs, actions: spec.Actions, trials: min(imaginedTrials, len(e.seeds))}
	_, actions, err := e.play(ctx, blob, greedy, notes)
	if err != nil {
		return err
	}
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), log)
	if err != nil {
		return err
	}
	params, err := checkpointParams(worldModel(e.cfg, e.world), ckpt)
	if err != nil {
		return err
	}
	imagined, err := view.NewImagination(params)
	if err != nil {
		return err
	}
	defer imagined.Close()
	for i, frames := range notes.frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		frames = frames[:len(actions[i])] // a trial that ended before others stays at its last step
		for k := range frames {
			frames[k].Action = actions[i][k]
		}
		imagined.Add(frames)
	}

	quantiles := []float64{0.01, 0.5, 0.9, 0.99, 0.999}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "value\t\tmean\t1 %%\t50 %%\t90 %%\t99 %%\t99.9 %%\t\n")
	for i, name := range e.valueNames() {
		for _, row := range []struct {
			name   string
			values []float32
		}{{"real", imagined.Real[i]}, {"1 step ahead", imagined.Next[i]}, {fmt.Sprintf("%d steps ahead", view.ImaginedAhead), imagined.Ahead[i]}} {
			fmt.Fprintf(w, "%s\t%s\t", name, row.name)
			name = ""
			if len(row.values) == 0 {
				fmt.Fprintf(w, "-\t-\t-\t-\t-\t-\t\n") // no trial was as long
				continue
			}
			slices.Sort(row.values)
			var sum float64
			for _, v := range row.values {
				sum += float64(v)
			}
			fmt.Fprintf(w, "%.4g\t", sum/float64(len(row.values)))
			for _, q := range quantiles {
				fmt.Fprintf(w, "%.4g\t", row.values[int(q*float64(len(row.values)-1))])
			}
			fmt.Fprintln(w)
		}
	}
	return w.Flush()
}

// valueNames are the names of an observation's values, in their order.
func (e *evaluator) valueNames() (names []string) {
	c := e.world.env
	for _, scale := range c.LoadScales {
		for i := range c.Servers {
			names = append(names, fmt.Sprintf("load %d / %g", i, scale))
		}
		names = append(names, fmt.Sprintf("size / %g", scale))
	}
	for _, each := range []struct {
		shown bool
		name  string
	}{{c.ObserveMask, "up"}, {c.ObserveRates, "rate"}, {c.ObserveMeasured, "measured rate"}} {
		for i := range c.Servers {
			if each.shown {
				names = append(names, fmt.Sprintf("%s %d", each.name, i))
			}
		}
	}
	return append(names, "reward", "episode start")
}
