package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/bench"
	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func newExperimentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment",
		Short: "Run trial protocols: methods, tasks and seeds, trained and compared",
		Long: `Run experiments: trial protocols that train several methods with several seeds and score each on the
same tests as the heuristics. Results are files that can be committed; what has been done is not done
again.`,
		Example: `  # What there is, and what one asks and does.
  dreamfleet experiment list
  dreamfleet experiment show hidden-rates

  # Five seeds of every method on this machine; again to go on.
  dreamfleet experiment run hidden-rates --out results/hidden-rates

  # What came of it, on one page.
  dreamfleet experiment report results/hidden-rates --out results/hidden-rates/report.html`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExperimentRunCommand(), newExperimentListCommand(), newExperimentShowCommand(), newExperimentReportCommand())
	return cmd
}

func newExperimentListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the experiments and what they ask",
		Example: `  dreamfleet experiment list`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, name := range experiment.Presets() {
				p, err := experiment.LoadPreset(name)
				if err != nil {
					return err
				}
				fmt.Fprintf(t, "%s\t%s\n", name, p.Question)
			}
			return t.Flush()
		},
	}
}

func newExperimentShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print an experiment's preset",
		Long: `Print the preset of an experiment: its question, what is trained with which methods, and on what they
are tested. A copy of it in a file is an experiment of your own.`,
		Example: `  dreamfleet experiment show continual

  # One of your own.
  dreamfleet experiment show standard > mine.yaml
  dreamfleet experiment run mine.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := experiment.LoadPreset(args[0])
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), p.Document)
			return err
		},
		ValidArgs: experiment.Presets(),
	}
}

// experimentFlags are those of a run.
type experimentFlags struct {
	scale, nats, out, traces string
	seeds, parallel          int
	methods                  []string
}

func newExperimentRunCommand() *cobra.Command {
	var f experimentFlags
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Train and test all methods and seeds of an experiment",
		Long: `Train every method of an experiment with every seed, score each on all tests, and score the heuristics
on the same trials. NAME is an experiment of 'experiment list', or a file that ends in .yaml.

Every job is a process of this program with one learner thread, as many at once as there are cores,
which they share out. The same command on the same folder goes on: it skips what is done, and a run
that was stopped resumes. A job that fails is reported with the last lines of its log and does not stop
the others. SIGTERM and Ctrl-C let the running jobs save and end.

The folder holds experiment.json, rules.jsonl and, below METHOD/seed-N, job.json, scores.jsonl, curve.csv,
log.txt and the run folder run.`,
		Example: `  # In seconds, to see that everything works.
  dreamfleet experiment run standard --scale debug --seeds 1 --out /tmp/standard

  # Three seeds on two cores.
  dreamfleet experiment run continual --seeds 3 --out results/continual

  # One method now; the others may follow in the same folder.
  dreamfleet experiment run standard --methods dreamer

  # Real logs, used where they are.
  dreamfleet experiment run traces --traces ~/traces

  # Actors on other machines may join each run over this server.
  dreamfleet experiment run standard --nats nats://10.0.0.5:4222`,
		Args:      cobra.ExactArgs(1),
		RunE:      func(cmd *cobra.Command, args []string) error { return f.start(cmd, args[0]) },
		ValidArgs: experiment.Presets(),
	}
	flags := cmd.Flags()
	flags.IntVar(&f.seeds, "seeds", 5, "`number` of training seeds, from 0")
	flags.StringSliceVar(&f.methods, "methods", nil, "`methods` of the experiment to train, separated by commas (default: all)")
	flags.StringVar(&f.scale, "scale", "small", "`size` of models and budgets: "+strings.Join(experiment.Scales, ", "))
	flags.StringVar(&f.nats, "nats", "", "`URL` of a NATS server for the jobs, each under a run name of its own (default: each embeds one)")
	flags.StringVar(&f.out, "out", "", "`folder` of the results (default: experiments/NAME-SCALE)")
	flags.StringVar(&f.traces, "traces", "", "`folder` of the trace files that an experiment reads")
	flags.IntVar(&f.parallel, "parallel", runtime.NumCPU(), "`jobs` at once")
	must(cmd.RegisterFlagCompletionFunc("scale", cobra.FixedCompletions(experiment.Scales, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.MarkFlagDirname("out"))
	must(cmd.MarkFlagDirname("traces"))
	return cmd
}

// maxExperimentSeeds is more than anybody trains.
const maxExperimentSeeds = 1000

func (f *experimentFlags) start(cmd *cobra.Command, name string) (err error) {
	preset, err := experiment.LoadPreset(name)
	if err != nil {
		return err
	}
	if f.seeds < 1 || f.seeds > maxExperimentSeeds || f.parallel < 1 {
		return fmt.Errorf("%w: --seeds is %d and --parallel %d, want 1 to %d and at least 1", protocol.ErrConfig, f.seeds, f.parallel, maxExperimentSeeds)
	}
	options := experiment.Options{Scale: f.scale, Traces: f.traces, Methods: f.methods}
	for s := range f.seeds {
		options.Seeds = append(options.Seeds, uint64(s))
	}
	plan, err := preset.Resolve(options)
	if err != nil {
		return err
	}
	out := f.out
	if out == "" {
		out = filepath.Join("experiments", preset.Name+"-"+f.scale)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("experiment folder: %w", err)
	}
	unlock, err := lockRun(out, "lock")
	if err != nil {
		return err
	}
	defer unlock()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runner := &experiment.Runner{
		Plan: plan, Dir: out, Parallel: f.parallel, Now: time.Now, Exec: subprocess(self, f.nats, f.parallel),
	}
	if runner.Version, runner.Commit, runner.Machine, err = whereAndWhat(); err != nil {
		return err
	}
	watching, stop := context.WithCancel(cmd.Context())
	var side sync.WaitGroup
	side.Go(func() { watchExperiment(watching, cmd.OutOrStdout(), runner) })
	err = runner.Run(cmd.Context())
	stop()
	side.Wait()
	if cmd.Context().Err() != nil {
		fmt.Fprintf(cmd.OutOrStdout(), "Everything is in %s; the same command goes on.\n", out)
		return nil
	}
	if err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "All results are in %s.\n", out)
	}
	return err
}

// subprocess runs commands of this program as processes of their own, which stop when asked to and do not outlive it.
// As many as run at once share the cores; where GOMAXPROCS is set it decides.
func subprocess(self, natsURL string, parallel int) func(context.Context, experiment.Command) (time.Duration, error) {
	return func(ctx context.Context, c experiment.Command) (time.Duration, error) {
		// The process is told when the thread that began it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.CommandContext(ctx, self, c.Args...)
		cmd.Stdout, cmd.Stderr = c.Stdout, c.Log
		cores := fmt.Sprintf("GOMAXPROCS=%d", max(1, runtime.NumCPU()/parallel))
		if cmd.Env = append([]string{cores}, os.Environ()...); natsURL != "" {
			cmd.Env = append(cmd.Env, urlVariable+"="+natsURL)
		}
		// A group of its own: Ctrl-C at the terminal would reach it beside our signal, and a second one ends it at once.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = drainTimeout
		err := cmd.Run()
		if cmd.ProcessState == nil {
			return 0, err
		}
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
	}
}

// whereAndWhat describes this program and this machine.
func whereAndWhat() (ver, commit string, m experiment.Machine, err error) {
	kernels, err := model.Kernels()
	if err != nil {
		return "", "", m, err
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	ver, commit = buildOf(version, info)
	return ver, commit, experiment.Machine{
		CPU: bench.Processor(), Cores: runtime.NumCPU(), Memory: bench.MemoryBytes(),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernels,
	}, nil
}

// watchExperiment shows how far a runner has come until ctx ends: on a terminal redrawn every second, otherwise a line
// whenever a job goes on to something else, and all of them every minute.
func watchExperiment(ctx context.Context, out io.Writer, r *experiment.Runner) {
	width, tty := terminal(out)
	tick := time.NewTicker(terminalInterval)
	defer tick.Stop()
	shown, drawn := map[string]string{}, 0
	for second := 0; ; second++ {
		jobs := r.Status()
		if tty {
			var text strings.Builder
			if drawn > 0 {
				fmt.Fprintf(&text, "\x1b[%dA\r\x1b[J", drawn)
			}
			lines := experiment.Lines(jobs, r.Parallel)
			for _, line := range lines {
				text.WriteString(cut(line, width()) + "\n")
			}
			drawn = len(lines)
			io.WriteString(out, text.String())
		} else {
			for _, s := range jobs {
				if now := s.State + " " + s.Detail; shown[s.Name] != now && s.State != experiment.Waiting {
					shown[s.Name] = now
					fmt.Fprintln(out, s.Line())
				}
			}
			if second%60 == 59 {
				for _, line := range experiment.Lines(jobs, r.Parallel) {
					fmt.Fprintln(out, line)
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done(): // shown once more
		case <-tick.C:
		}
	}
}

// cut shortens a line to so many columns: a wrapped one would not be redrawn in its place.
func cut(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:width])
	}
	return line
}
