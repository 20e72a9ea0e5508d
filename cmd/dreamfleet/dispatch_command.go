package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/dreamfleet/dreamfleet/dispatch"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// dispatchClient asks a dispatcher: over HTTP, or on the bus as an operator.
type dispatchClient struct {
	watchFlags
	address string
}

func (f *dispatchClient) register(cmd *cobra.Command) {
	f.watchFlags.register(cmd)
	cmd.Flags().StringVar(&f.run, "run", "", "with --nats, the run's `name`")
	cmd.Flags().StringVar(&f.address, "url", "http://"+dispatchAddress, "`URL` of the dispatcher; commands are taken from its own machine alone")
	cmd.MarkFlagsMutuallyExclusive("url", "nats")
	cmd.MarkFlagsRequiredTogether("nats", "run")
}

// ask calls the dispatcher and decodes its answer.
func (f *dispatchClient) ask(cmd *cobra.Command, call string, command bool, body, answer any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), connectTimeout)
	defer cancel()
	var reply []byte
	if f.url != "" {
		w, err := f.connect(cmd, f.run)
		if err != nil {
			return err
		}
		defer w.close()
		if reply, err = w.bus.CallDispatch(ctx, call, command, content); err != nil {
			return err
		}
	} else if reply, err = f.post(ctx, call, content); err != nil {
		return err
	}
	if err := json.Unmarshal(reply, answer); err != nil {
		return fmt.Errorf("the dispatcher's answer: %w", err)
	}
	return nil
}

// maxAnswer bounds an answer in bytes.
const maxAnswer = 4 << 20

func (f *dispatchClient) post(ctx context.Context, call string, body []byte) ([]byte, error) {
	address, err := url.JoinPath(f.address, "v1", call)
	if err != nil {
		return nil, fmt.Errorf("%w: --url: %w", protocol.ErrConfig, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: --url: %w", protocol.ErrConfig, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("no dispatcher answers: %w", err)
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		var problem struct{ Error string }
		if json.Unmarshal(reply, &problem) != nil {
			problem.Error = string(bytes.TrimSpace(reply))
		}
		return nil, fmt.Errorf("the dispatcher answers %d: %s", response.StatusCode, problem.Error)
	}
	return reply, nil
}

// command makes a subcommand that asks for something and shows the status afterwards.
func (f *dispatchClient) command(call string, body any) func(cmd *cobra.Command) error {
	return func(cmd *cobra.Command) error {
		var s dispatch.Status
		if err := f.ask(cmd, call, true, body, &s); err != nil {
			return err
		}
		return writeDispatchStatus(cmd.OutOrStdout(), s)
	}
}

func newDispatchPlanCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "plan",
		Short:   "Print the plan's keys with their defaults",
		Example: "  dreamfleet dispatch plan > plan.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e := yaml.NewEncoder(cmd.OutOrStdout())
			e.SetIndent(2)
			return errors.Join(e.Encode(dispatch.DefaultPlan()), e.Close())
		},
	}
}

func newDispatchStatusCommand() *cobra.Command {
	var f dispatchClient
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show stage, versions, holds and counts of a dispatcher",
		Example: `  dreamfleet dispatch status
  dreamfleet dispatch status --nats nats://10.0.0.5:4222 --run small --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s dispatch.Status
			if err := f.ask(cmd, "status", false, struct{}{}, &s); err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(s)
			}
			return writeDispatchStatus(cmd.OutOrStdout(), s)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newApproveCommand() *cobra.Command {
	var f dispatchClient
	var call dispatch.ApproveCall
	cmd := &cobra.Command{
		Use:   "approve",
		Short: "Consent to one step up, or to a newer version",
		Long: `Consent to the next step: from shadow to the first share of the canary, from share to share, and to
active. It is refused while the plan's conditions are not met, unless forced. With --version these
parameters act from now on, in the stage that is, and newer ones are taken up again.`,
		Example: `  dreamfleet dispatch approve
  dreamfleet dispatch approve --version 14000`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.command("approve", call)(cmd) },
	}
	f.register(cmd)
	cmd.Flags().Uint64Var(&call.Version, "version", 0, "parameters that shall act")
	cmd.Flags().BoolVar(&call.Force, "force", false, "although the plan's conditions are not met")
	return cmd
}

func newRollbackCommand() *cobra.Command {
	var f dispatchClient
	cmd := &cobra.Command{
		Use:     "rollback VERSION",
		Short:   "Have an earlier version act, at once",
		Long:    "Have one of the versions that are kept act, at once. Newer ones wait until one is approved.",
		Example: "  dreamfleet dispatch rollback 12000",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return fmt.Errorf("%w: version %q is no number", protocol.ErrConfig, args[0])
			}
			return f.command("rollback", dispatch.RollbackCall{Version: number})(cmd)
		},
	}
	f.register(cmd)
	return cmd
}

func newReleaseCommand() *cobra.Command {
	var f dispatchClient
	var call dispatch.ReleaseCall
	cmd := &cobra.Command{
		Use:   "release",
		Short: "End holds",
		Example: `  dreamfleet dispatch release
  dreamfleet dispatch release --stream eu-1`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var answer struct{ Released int }
			if err := f.ask(cmd, "release", true, call, &answer); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d released\n", answer.Released)
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&call.Stream, "stream", "", "that of this `stream` alone (default: all)")
	return cmd
}

func newStepDownCommand() *cobra.Command {
	var f dispatchClient
	cmd := &cobra.Command{
		Use:       "stepdown shadow|canary",
		Short:     "Go to a lower stage, at once",
		Example:   "  dreamfleet dispatch stepdown shadow",
		ValidArgs: []string{string(dispatch.Shadow), string(dispatch.Canary)},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.command("stepdown", dispatch.StepDownCall{Stage: dispatch.Stage(args[0])})(cmd)
		},
	}
	f.register(cmd)
	return cmd
}

func writeDispatchStatus(w io.Writer, s dispatch.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "run\t%s\n", s.Run)
	fmt.Fprintf(t, "stage\t%s, the policy decides for %.3g %% of streams, since %s\n", s.Stage, 100*s.Share, s.Since.Format(time.DateTime))
	next := "ready: 'dreamfleet dispatch approve' takes it"
	if !s.Ready {
		next = s.Lacks
	}
	fmt.Fprintf(t, "next step\t%s\n", next)
	for _, v := range s.Versions {
		note := ""
		if v.Acting {
			note = ", acts"
			if s.Pinned {
				note += "; newer ones wait"
			}
		}
		fmt.Fprintf(t, "version\t%d, loaded %s%s\n", v.Version, v.Loaded.Format(time.DateTime), note)
	}
	for _, h := range s.Holds {
		of, until := "all streams", "until it is released"
		if h.Stream != "" {
			of = "stream " + h.Stream
		}
		if !h.Until.IsZero() {
			until = "until " + h.Until.Format(time.TimeOnly)
		}
		fmt.Fprintf(t, "hold\t%s of %s: %.4g exceeds %.4g, %s %s\n", h.Guard, of, h.Value, h.Limit, until, h.Note)
	}
	fmt.Fprintf(t, "decisions\t%d, of these %d by the policy", s.Decisions, s.Policy)
	for _, r := range dispatch.Reasons {
		if n := s.Reference[r]; n > 0 {
			fmt.Fprintf(t, ", %d by the reference for %s", n, r)
		}
	}
	fmt.Fprintf(t, "\nagreement\t%.1f %% of advice is the reference's choice\n", 100*s.Agreement)
	if s.Blocks > 0 {
		fmt.Fprintf(t, "replayed\t%d blocks: mean completion time %.4g under the policy, %.4g under the reference; evidence that it is worse %.3g of %.0f\n",
			s.Blocks, s.PolicyCost, s.ReferenceCost, s.Evidence, s.EvidenceLimit)
	}
	fmt.Fprintf(t, "streams\t%d, of these %d held; %d unfinished jobs\n", s.Streams, s.Held, s.Unfinished)
	return t.Flush()
}

func newCalibrateCommand() *cobra.Command {
	var run, level string
	var episodes int
	cmd := &cobra.Command{
		Use:   "calibrate [AUDIT...]",
		Short: "Tell how surprised the world model is where it should not be",
		Long: `Play episodes of the tasks that a run was trained on with its newest checkpoint, and print quantiles of the
largest surprise in each: how one-sidedly a server's load exceeded what the world model had expected, as a
multiple of what is usual. A dispatcher does the same by itself with each version that it takes up, and holds a stream beyond the quantile that the plan
names (guards.surprise.quantile).

With files of an audit log the quantiles are of what was recorded there: once real jobs have been seen in
the shadow stage, one of them is the better limit (guards.surprise.threshold).`,
		Example: `  dreamfleet dispatch calibrate --run runs/small
  dreamfleet dispatch calibrate runs/small/dispatch/audit-000001.jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var values []float64
			if len(args) > 0 {
				for _, path := range args {
					more, err := dispatch.ReadSurprise(path)
					if err != nil {
						return err
					}
					values = append(values, more...)
				}
				slices.Sort(values)
			} else {
				cfg, err := savedConfig(run)
				if err != nil {
					return err
				}
				policy, err := dispatchPolicy(cfg)
				if err != nil {
					return err
				}
				ckpt, err := learner.Latest(filepath.Join(run, checkpointDir), newLogger(level, cmd.ErrOrStderr()))
				if err != nil {
					return err
				}
				file, err := checkpointFile(ckpt)
				if err != nil {
					return err
				}
				c, err := dispatch.Calibrate(cmd.Context(), policy, uint64(ckpt.Manifest.Updates), file, episodes, true)
				if err != nil {
					return err
				}
				values = c.Largest
			}
			if len(values) == 0 {
				return errors.New("there is no surprise to tell of")
			}
			c := dispatch.Calibration{Largest: values}
			fmt.Fprintln(cmd.OutOrStdout(), "quantile  surprise")
			for _, q := range []float64{0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999} {
				fmt.Fprintf(cmd.OutOrStdout(), "%-8g  %.4g\n", q, c.Threshold(q))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&run, "run", filepath.Join("runs", "small"), "run `folder`")
	cmd.Flags().IntVar(&episodes, "episodes", 100, "episodes to play")
	cmd.Flags().StringVar(&level, "log-level", "warn", "trace, debug, info, warn or error")
	must(cmd.MarkFlagDirname("run"))
	return cmd
}
