package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/bench"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func newScaleCommand() *cobra.Command {
	z := bench.Scale{Program: ownProgram}
	var dir, sizing string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure fleets of one to a thousand actors on this machine",
		Long: `Measure what fleets of growing size cost: a NATS server, a replay and lightweight actors, each role in
processes of its own. An actor has a connection, heartbeats, parameters, flow and configuration as a
real one, and publishes chunks of the preset small at a given rate, but has no environment and no
policy. Figures are medians of rounds after one to warm up: throughput, staleness, processor time of
each role for a chunk and for a version of the parameters, memory of a connection at the server, the
load of an idle fleet, and the time and bytes of parameters until every actor has them. The default
takes three to four minutes.

With --sizing, nothing is measured: docs/sizing.md is made from figures measured before, with its
predictions for larger fleets and their error at the sizes measured.`,
		Example: `  # One to a thousand actors; as JSON, the file that docs/sizing.md is made from.
  dreamfleet bench scale
  dreamfleet bench scale --json > docs/results/scale/figures.jsonl

  # The page, from the figures in that file.
  dreamfleet bench scale --sizing docs/results/scale/figures.jsonl > docs/sizing.md`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if sizing != "" {
				return printSizing(cmd, sizing)
			}
			if err := bench.CheckActors(z.Actors); err != nil {
				return fmt.Errorf("%w: --actors: %w", protocol.ErrConfig, err)
			}
			switch {
			case !(z.Rate > 0 && z.Rate <= 1e4):
				return fmt.Errorf("%w: --rate is %g: chunks a second, above 0 and at most 10000", protocol.ErrConfig, z.Rate)
			case z.Round < 100*time.Millisecond:
				return fmt.Errorf("%w: --round is %v, at least 100ms is needed", protocol.ErrConfig, z.Round)
			case z.Rounds < 1:
				return fmt.Errorf("%w: --rounds is %d, at least 1 is needed", protocol.ErrConfig, z.Rounds)
			}
			if z.Dir, err = os.MkdirTemp(dir, "dreamfleet-bench-"); err != nil {
				return fmt.Errorf("--dir: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(z.Dir)) }()
			return z.Run(cmd.Context(), printer(cmd.OutOrStdout(), asJSON))
		},
	}
	flags := cmd.Flags()
	flags.IntSliceVar(&z.Actors, "actors", []int{1, 10, 100, 1000}, "`numbers` of actors, one fleet each")
	flags.Float64Var(&z.Rate, "rate", 1, "chunks a second that each actor publishes")
	flags.DurationVar(&z.Round, "round", 2*time.Second, "length of a round")
	flags.IntVar(&z.Rounds, "rounds", minRounds, "rounds after one to warm up")
	flags.StringVar(&dir, "dir", "", "`folder` for files, on the disk to be measured (default the system's)")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object a line")
	flags.StringVar(&sizing, "sizing", "", "print docs/sizing.md from the figures in this `file`, and measure nothing")
	cmd.AddCommand(newScaleActorsCommand())
	return cmd
}

// ownProgram is a command of this program, with arguments.
func ownProgram(args ...string) *exec.Cmd {
	path, err := os.Executable()
	if err != nil {
		path = os.Args[0]
	}
	return exec.Command(path, args...)
}

func printSizing(cmd *cobra.Command, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--sizing: %w", err)
	}
	defer file.Close()
	figures, err := bench.ReadResults(file)
	if err == nil {
		err = bench.WriteSizing(cmd.OutOrStdout(), figures)
	}
	if err != nil {
		return fmt.Errorf("--sizing %s: %w", path, err)
	}
	return nil
}

func newScaleActorsCommand() *cobra.Command {
	var actors bench.ScaleActors
	cmd := &cobra.Command{
		Use:     "actors",
		Short:   "Be the lightweight actors of a fleet that is measured",
		Hidden:  true, // bench scale starts it
		Example: `  dreamfleet bench scale actors --nats nats://127.0.0.1:4222 --count 10`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ended(cmd.Context(), actors.Serve(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout()))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&actors.URL, "nats", "", "`addresses` of the NATS servers")
	flags.IntVar(&actors.First, "first", 0, "number of the first actor")
	flags.IntVar(&actors.Count, "count", 1, "actors")
	return cmd
}
