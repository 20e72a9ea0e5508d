package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func newEnvCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Score dispatch heuristics, tune the index policy, verify recorded episodes",
		Long: `Work with the load balancing environment alone, without an agent: score dispatch heuristics on any
workload, tune the index policy to it, and verify recorded episodes against the simulator.`,
		Example: `  # How good the rules are that people use.
  dreamfleet env score --policy all --seeds 2000-2029

  # The best of them, tuned to lighter load.
  dreamfleet env tune --interval 75 --out light.json

  # Whether a recorded episode is what the simulator does.
  dreamfleet env verify episode.jsonl.gz`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newScoreCommand(), newTuneCommand(), newVerifyCommand())
	return cmd
}

// workloadFlags name the episodes that policies run on.
type workloadFlags struct {
	workload loadbalance.WorkloadConfig
	seeds    string
	servers  int
	rates    []float64
	jobs     int
}

func (f *workloadFlags) register(flags *pflag.FlagSet, seeds string) {
	f.workload = loadbalance.DefaultWorkload()
	flags.StringVar(&f.seeds, "seeds", seeds, "`seeds` of the episodes, such as 2000-2029 or 1,5,7-9")
	flags.IntVar(&f.jobs, "jobs", 1000, "jobs an episode")
	flags.IntVar(&f.servers, "servers", 10, "number of servers, whose rates are spaced evenly from 0.15 to 1.05")
	flags.Float64SliceVar(&f.rates, "rates", nil, "service `rates` of the servers, separated by commas, instead")
	w := &f.workload
	flags.StringVar(&w.Kind, "workload", w.Kind, "`kind` of workload: poisson (as Park's), mmpp (bursts), diurnal, csv or swf (trace files)")
	flags.Float64Var(&w.Interval, "interval", w.Interval, "mean `time` between arrivals")
	flags.Float64Var(&w.Shape, "size-shape", w.Shape, "shape of the Pareto distribution of sizes")
	flags.Float64Var(&w.Scale, "size-scale", w.Scale, "scale of the Pareto distribution of sizes: the smallest size")
	flags.Float64Var(&w.Load, "load", 0, "offered `load` to set the arrivals to: mean size over mean gap and the sum of the rates (default: as they are)")
	flags.Float64Var(&w.Burst, "burst", w.Burst, "`ratio` of the arrival rate in bursts to between them (mmpp), of peak to trough (diurnal)")
	flags.Float64Var(&w.Period, "period", 0, "mean `time` of a burst (mmpp, default 1000), length of a day (diurnal, default 20000)")
	flags.StringVar(&w.File, "file", "", "trace `file`, plain or gzipped; an episode is a window of its jobs, which the seed draws")
	flags.StringVar(&w.Arrival, "arrival", w.Arrival, "`column` of arrivals in a CSV file: numbers or timestamps")
	flags.StringVar(&w.Size, "size", w.Size, "`column` of sizes in a CSV file")
	flags.StringVar(&w.Filter, "filter", "", "keep only rows of a CSV file with this `column=value`")
	flags.Float64Var(&w.Unit, "unit", w.Unit, "time units in a unit of a trace's sizes, which are rounded to whole time units")
}

// traceFlags are those that only some kinds of workloads read.
var traceFlags = map[string][]string{
	"file": {loadbalance.CSV, loadbalance.SWF}, "unit": {loadbalance.CSV, loadbalance.SWF},
	"arrival": {loadbalance.CSV}, "size": {loadbalance.CSV}, "filter": {loadbalance.CSV},
}

// check finds what is wrong with the flags alone and returns the seeds and the rates.
func (f *workloadFlags) check(flags *pflag.FlagSet) (seeds []uint64, rates []float64, err error) {
	if seeds, err = protocol.ParseSeeds(f.seeds); err != nil {
		return nil, nil, fmt.Errorf("--seeds: %w", err)
	}
	if f.jobs < 1 || f.jobs > loadbalance.MaxJobs {
		return nil, nil, fmt.Errorf("--jobs is %d jobs an episode, want 1 to %d", f.jobs, loadbalance.MaxJobs)
	}
	if rates = f.rates; rates == nil {
		if f.servers < 1 || f.servers > loadbalance.MaxServers {
			return nil, nil, fmt.Errorf("--servers is %d, want 1 to %d", f.servers, loadbalance.MaxServers)
		}
		rates = loadbalance.EvenRates(f.servers)
	}
	if err := checkRates("--rates", rates); err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(traceFlags)) {
		if kinds := traceFlags[name]; flags.Changed(name) && !slices.Contains(kinds, f.workload.Kind) {
			return nil, nil, fmt.Errorf("--%s is for --workload %s, and it is %s", name, strings.Join(kinds, " or "), f.workload.Kind)
		}
	}
	for _, name := range []string{"interval", "size-shape", "size-scale", "unit"} { // 0 would stand for the default
		if flags.Changed(name) && flags.Lookup(name).Value.String() == "0" {
			return nil, nil, fmt.Errorf("--%s is 0, want a positive number", name)
		}
	}
	return seeds, rates, f.workload.Check()
}

func checkRates(flag string, rates []float64) error {
	if len(rates) == 0 || len(rates) > loadbalance.MaxServers {
		return fmt.Errorf("%s are %d, want 1 to %d", flag, len(rates), loadbalance.MaxServers)
	}
	for _, r := range rates {
		if !(r >= loadbalance.MinRate && r <= loadbalance.MaxRate) {
			return fmt.Errorf("%s: service rate %g, want %g to %g", flag, r, loadbalance.MinRate, loadbalance.MaxRate)
		}
	}
	return nil
}

// episodes records the jobs of all seeds. What a trace file holds, and what was done to it, is noted on stderr.
func (f *workloadFlags) episodes(cmd *cobra.Command) (*loadbalance.Episodes, error) {
	seeds, rates, err := f.check(cmd.Flags())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	w, err := newWorkload(f.workload, rates)
	if err != nil {
		return nil, err
	}
	notes := cmd.ErrOrStderr()
	if trace, ok := w.(*loadbalance.Trace); ok {
		s := trace.Stats()
		fmt.Fprintf(notes, "%s: %d jobs of %d rows (%d filtered, %d with a run time of zero or less, %d put in order), mean size %.1f, mean gap %.1f",
			f.workload.File, s.Jobs, s.Rows, s.Filtered, s.Skipped, s.Unordered, s.MeanSize, s.MeanGap)
		if f.workload.Load > 0 {
			fmt.Fprintf(notes, "; all gaps times %.4g for an offered load of %g", s.Stretch, f.workload.Load)
		}
		fmt.Fprintln(notes)
	}
	return loadbalance.NewEpisodes(cmd.Context(), w, rates, seeds, f.jobs)
}

// Names of what score knows beside the policies.
const (
	allPolicies = "all"
	lowerBound  = "lower_bound"
)

func newScoreCommand() *cobra.Command {
	var workload workloadFlags
	var name, index string
	var options loadbalance.PolicyOptions
	var asJSON bool
	names := append(loadbalance.PolicyNames(), lowerBound, allPolicies)
	cmd := &cobra.Command{
		Use:   "score",
		Short: "Score a dispatch heuristic beside LEFT on the same jobs",
		Long: `Run a dispatch heuristic on the episodes of the given seeds and compare its mean job completion
times (JCT) with those of LEFT, which knows the rates and takes the least expected finish time. Ratios
are taken seed by seed, since both run on the same jobs; below 1 is better than LEFT. The interval is
the 95 % bootstrap interval of the interquartile mean (IQM).

With --json the result is one object: policy, seeds, mean_jct (one number a seed) and ratio_to_left
(mean, iqm, median, ci95 of the IQM). With --policy all it is one such object a line.`,
		Example: `  # All heuristics on Park's default workload, and the lower bound of all policies.
  dreamfleet env score --policy all --seeds 2000-2029

  # One of them, for a program.
  dreamfleet env score --policy sita2_left --seeds 2000-2029 --json

  # Three servers under bursts.
  dreamfleet env score --policy left --rates 0.2,0.5,1 --workload mmpp --burst 5 --load 0.7

  # Trace files, rescaled to a load of 0.9.
  dreamfleet env score --policy all --workload swf --file jobs.swf.gz --load 0.9
  dreamfleet env score --policy all --workload csv --file requests.csv.gz --arrival gmt_create \
      --size exec_time_seconds --filter predict_status=SUCCEED --load 0.9`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if index != "" {
				var err error
				if options.Index, err = loadbalance.ReadIndex(index); err != nil {
					return err
				}
			}
			episodes, err := workload.episodes(cmd)
			if err != nil {
				return err
			}
			if err := checkOptions(cmd.Flags(), options, len(episodes.Rates)); err != nil {
				return fmt.Errorf("%w: %w", protocol.ErrConfig, err)
			}
			reports, err := scoreReports(cmd.Context(), episodes, name, options)
			if err != nil {
				return err
			}
			return writeReports(cmd.OutOrStdout(), reports, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "policy", allPolicies, "`name` of the policy: "+strings.Join(names, ", "))
	flags.StringVar(&index, "index", "", "`file` of parameters for the policy index, from env tune (default: those tuned to Park's workload)")
	flags.Float64SliceVar(&options.Rates, "assume-rates", nil, "service `rates` that the policies believe in (default: the true ones)")
	flags.Int64Var(&options.LargeSize, "sita-size", 0, "smallest `size` that sita2_left sends to slow servers only (default 700)")
	flags.Float64Var(&options.SlowShare, "sita-share", 0, "`share` of the servers, the slowest, that take those (default 0.6)")
	flags.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	workload.register(flags, "2000-2029")
	must(cmd.RegisterFlagCompletionFunc("policy", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// checkOptions finds what no policy can be told.
func checkOptions(flags *pflag.FlagSet, o loadbalance.PolicyOptions, servers int) error {
	if flags.Changed("sita-size") && o.LargeSize < 1 {
		return fmt.Errorf("--sita-size is %d, want 1 or more", o.LargeSize)
	}
	if flags.Changed("sita-share") && !(o.SlowShare > 0 && o.SlowShare <= 1) {
		return fmt.Errorf("--sita-share is %g, want a share above 0, at most 1", o.SlowShare)
	}
	if o.Rates == nil {
		return nil
	}
	if len(o.Rates) != servers {
		return fmt.Errorf("--assume-rates are %d, want one for each of the %d servers", len(o.Rates), servers)
	}
	return checkRates("--assume-rates", o.Rates)
}

// scoreReports scores one policy, or all of them.
func scoreReports(ctx context.Context, e *loadbalance.Episodes, name string, options loadbalance.PolicyOptions) ([]experiment.Report, error) {
	names := []string{name}
	if name == allPolicies {
		names = append(loadbalance.PolicyNames(), lowerBound)
	}
	reference, err := scorePolicy(ctx, e, "left", loadbalance.PolicyOptions{})
	if err != nil {
		return nil, err
	}
	var reports []experiment.Report
	for _, n := range names {
		scores, err := scorePolicy(ctx, e, n, options)
		if err != nil {
			return nil, err
		}
		report, err := experiment.NewReport(scores, reference)
		if err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	return reports, nil
}

func scorePolicy(ctx context.Context, e *loadbalance.Episodes, name string, options loadbalance.PolicyOptions) (experiment.Scores, error) {
	scores := experiment.Scores{Policy: name, Seeds: e.Seeds}
	if name == lowerBound {
		var err error
		scores.MeanJCT, err = e.LowerBound(ctx)
		return scores, err
	}
	policy, err := loadbalance.NewPolicy(name, options)
	if err != nil {
		return scores, fmt.Errorf("%w: --policy: %w", protocol.ErrConfig, err)
	}
	scores.MeanJCT, err = e.Score(ctx, policy)
	return scores, err
}

func writeReports(w io.Writer, reports []experiment.Report, asJSON bool) error {
	if !asJSON {
		var rows []experiment.Row
		for _, r := range reports {
			rows = append(rows, r.Row())
		}
		return experiment.WriteTable(w, rows)
	}
	for _, r := range reports {
		if err := r.WriteJSON(w); err != nil {
			return err
		}
	}
	return nil
}

func newTuneCommand() *cobra.Command {
	var workload workloadFlags
	var start, out string
	var knots int
	tune := loadbalance.TuneConfig{Workers: runtime.GOMAXPROCS(0)}
	cmd := &cobra.Command{
		Use:   "tune",
		Short: "Tune the index policy to a workload",
		Long: `Search for the parameters of the index policy that minimise its mean ratio to LEFT on the episodes of
the given seeds, by CMA-ES, and write them for 'dreamfleet env score --policy index --index FILE'.
The policy has five parameters at each of a few knots along the servers' rates, and interpolates
between. The same flags give the same file. Stopped early, it writes the best so far.

Tune on other seeds than you report: on 2000-2029 by custom.`,
		Example: `  # Tune 15 parameters to lighter load, and compare.
  dreamfleet env tune --interval 75 --out light.json
  dreamfleet env score --policy index --index light.json --interval 75

  # Refine them with five parameters a server.
  dreamfleet env tune --interval 75 --start light.json --knots 10 --out light50.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if tune.Episodes, err = workload.episodes(cmd); err != nil {
				return err
			}
			if tune.Start, err = tuningStart(tune.Episodes.Rates, knots, start); err != nil {
				return err
			}
			tune.Progress = func(generation int, best float64) error {
				if every := max(tune.Generations/20, 1); generation%every == 0 || generation == 1 {
					fmt.Fprintf(cmd.ErrOrStderr(), "generation %d of %d: ratio to LEFT %.4f\n", generation, tune.Generations, best)
				}
				return nil
			}
			index, ratio, err := loadbalance.Tune(cmd.Context(), tune)
			if err != nil {
				return err
			}
			index.Tuned = fmt.Sprintf("%s: mean ratio to LEFT %.4f on these seeds", commandLine(cmd), ratio)
			if err := index.WriteFile(out); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: mean ratio to LEFT %.4f on the seeds it was tuned on\n", out, ratio)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&out, "out", "index.json", "`file` to write")
	flags.StringVar(&start, "start", "", "`file` of parameters to start from (default: those that equal LEFT)")
	flags.IntVar(&knots, "knots", 3, "knots, spaced evenly over the servers' rates; 10 with ten even rates is one a server")
	flags.IntVar(&tune.Generations, "generations", 150, "generations of the search")
	flags.IntVar(&tune.Population, "population", 16, "candidates of a generation")
	flags.Uint64Var(&tune.Seed, "seed", 1, "seed of the search")
	flags.IntVar(&tune.Workers, "workers", tune.Workers, "candidates scored at once; the result does not depend on it")
	workload.register(flags, "50000-50099")
	must(cmd.MarkFlagFilename("start", "json"))
	return cmd
}

// tuningStart is where the search starts: parameters from a file, or those of LEFT, with so many knots over the rates.
func tuningStart(rates []float64, knots int, file string) (*loadbalance.Index, error) {
	if knots < 1 || knots > loadbalance.MaxServers {
		return nil, fmt.Errorf("%w: --knots is %d, want 1 to %d", protocol.ErrConfig, knots, loadbalance.MaxServers)
	}
	at := loadbalance.Knots(rates, knots)
	if file == "" {
		return loadbalance.NewIndex(at), nil
	}
	index, err := loadbalance.ReadIndex(file)
	if err != nil {
		return nil, err
	}
	return index.Resample(at), nil
}

// commandLine repeats a command with the flags that decide its result.
func commandLine(cmd *cobra.Command) string {
	var b strings.Builder
	b.WriteString(cmd.CommandPath())
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "out" && f.Name != "workers" {
			fmt.Fprintf(&b, " --%s %s", f.Name, strings.Trim(f.Value.String(), "[]"))
		}
	})
	return b.String()
}

func newVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE...",
		Short: "Verify recorded episodes against the simulator",
		Long: `Replay recorded episodes, plain or gzipped, and compare every job, observation, reward, done flag and
time with the simulator's, to the last digit. Jobs are drawn again from the seed in the file's header.
For each file it prints ok, or the first step and field that differ; it fails unless all are ok.`,
		Example: `  dreamfleet env verify env/loadbalance/testdata/park/*.jsonl.gz`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			bad := 0
			for _, file := range files {
				verdict := "ok"
				if err := verifyFile(file); err != nil {
					bad++
					verdict = err.Error()
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", file, verdict); err != nil {
					return err
				}
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d files are not ok", bad, len(files))
			}
			return nil
		},
	}
}

func verifyFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = loadbalance.Verify(f)
	var malformed *loadbalance.FormatError
	if errors.As(err, &malformed) {
		return fmt.Errorf("not a recorded episode: %w", err)
	}
	return err
}
