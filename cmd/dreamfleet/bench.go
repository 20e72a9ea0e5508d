package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/bench"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func newBenchCommand() *cobra.Command {
	var threads, rounds int
	var dir string
	var asJSON bool
	var about strings.Builder
	names := make([]string, 0, len(bench.All()))
	for _, b := range bench.All() {
		names = append(names, b.Name)
		fmt.Fprintf(&about, "  %-10s %s\n", b.Name, b.About)
	}
	cmd := &cobra.Command{
		Use:   "bench [name...]",
		Short: "Measure the parts against limits of this machine",
		Long: `Measure the parts of dreamfleet against limits that are measured in the same run, so that figures
mean something on shared and noisy machines. A figure is the median of the rounds after one to warm
up, in which value and limit take turns; the ratio is the median of the rounds' ratios. Rates are
best near their limit, times near theirs from above. All benchmarks take five to fifteen minutes:

` + about.String() + `
With --json each figure is one line: name, config, value, unit, limit, limit_kind and ratio.
docs/performance.md tells what the figures mean and what to expect.`,
		Example: `  # Everything.
  dreamfleet bench

  # Train steps on one thread, for a program.
  dreamfleet bench learn --threads 1 --json`,
		ValidArgs: names,
		Args:      cobra.OnlyValidArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case threads < 1:
				return fmt.Errorf("%w: --threads is %d, at least 1 is needed", protocol.ErrConfig, threads)
			case rounds < minRounds:
				return fmt.Errorf("%w: --rounds is %d, at least %d are needed for a median to mean something", protocol.ErrConfig, rounds, minRounds)
			}
			scratch, err := os.MkdirTemp(dir, "dreamfleet-bench-")
			if err != nil {
				return fmt.Errorf("--dir: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
			o := &bench.Options{Threads: threads, Rounds: rounds, Dir: scratch, Train: benchTrain}
			return runBench(cmd.Context(), o, args, printer(cmd.OutOrStdout(), asJSON))
		},
	}
	cmd.Flags().IntVar(&threads, "threads", runtime.GOMAXPROCS(0), "threads of the learner and of products of matrices")
	cmd.Flags().IntVar(&rounds, "rounds", minRounds, "rounds after one to warm up")
	cmd.Flags().StringVar(&dir, "dir", "", "`folder` for files, on the disk to be measured (default the system's)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.AddCommand(newScaleCommand())
	return cmd
}

const minRounds = 5

// runBench runs the named benchmarks, or all, after a description of the machine.
func runBench(ctx context.Context, o *bench.Options, names []string, report func(bench.Result)) error {
	machine, err := bench.Machine(ctx, o)
	if err != nil {
		return err
	}
	report(machine)
	for _, b := range bench.All() {
		if len(names) > 0 && !slices.Contains(names, b.Name) {
			continue
		}
		if err := b.Run(ctx, o, report); err != nil {
			return fmt.Errorf("bench %s: %w", b.Name, err)
		}
	}
	return nil
}

func printer(w io.Writer, asJSON bool) func(bench.Result) {
	if asJSON {
		encoder := json.NewEncoder(w)
		return func(r bench.Result) { _ = encoder.Encode(r) } // a closed pipe ends the program anyway
	}
	return func(r bench.Result) {
		fmt.Fprintf(w, "%-34s %12.4g %-10s", r.Name, r.Value, r.Unit)
		if r.Limit != 0 {
			fmt.Fprintf(w, " %6.3f of %.4g, %s", r.Ratio, r.Limit, r.LimitKind)
		}
		fmt.Fprintf(w, "\n    %s\n", r.Config)
	}
}

func benchTrain(ctx context.Context, c protocol.Config, dir string) error {
	return train(ctx, c, dir, false, monitorFlag{}, io.Discard)
}
