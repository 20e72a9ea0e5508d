package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Names of the learned policy in reports: with its most probable actions, and with drawn ones.
const (
	greedyPolicy  = "dreamer_greedy"
	sampledPolicy = "dreamer_sampled"
)

// misledLEFT is LEFT with the service rates as configured where the trials have others.
const misledLEFT = "left_default_order"

// evaluator scores parameters on the evaluation trials of a run, which nothing is trained on.
type evaluator struct {
	cfg    protocol.Config
	world  *world
	seeds  []uint64
	trials *experiment.Trials
	left   []experiment.Scores // one for each episode of the trials
}

// evaluationSeed is that of the agent's own draws; tasks and jobs come from the seeds of the trials.
const evaluationSeed = 0xe7a1

func newEvaluator(ctx context.Context, cfg protocol.Config, w *world, seeds string, jobs int) (*evaluator, error) {
	e := &evaluator{cfg: cfg, world: w}
	var err error
	if e.seeds, err = protocol.ParseSeeds(seeds); err != nil {
		return nil, fmt.Errorf("%w: seeds: %w", protocol.ErrConfig, err)
	}
	if jobs < 1 || jobs > loadbalance.MaxJobs {
		return nil, fmt.Errorf("%w: jobs is %d, want 1 to %d", protocol.ErrConfig, jobs, loadbalance.MaxJobs)
	}
	shown, tasks := w.env, *w.tasks
	shown.Jobs = jobs
	if w.heldBack != nil {
		if w.heldBack.Jobs() < jobs {
			return nil, fmt.Errorf("%w: evaluation has %d jobs an episode (evaluate.jobs or --jobs), but the last fifth of %s, which it has, is %d jobs",
				protocol.ErrConfig, jobs, cfg.Env.Workload.File, w.heldBack.Jobs())
		}
		tasks.Base.Workload = w.heldBack
	}
	if e.trials, err = experiment.NewTrials(ctx, shown, tasks, cfg.Env.EpisodesPerTrial, e.seeds); err != nil {
		return nil, fmt.Errorf("evaluation: %w", err)
	}
	e.left, err = e.heuristic(ctx, "left")
	return e, err
}

// heuristic plays the trials by a rule. One that uses service rates knows each trial's own.
func (e *evaluator) heuristic(ctx context.Context, name string) ([]experiment.Scores, error) {
	rule, options := name, loadbalance.PolicyOptions{}
	if name == misledLEFT {
		rule, options.Rates = "left", e.world.tasks.Base.Rates
	}
	p, err := loadbalance.NewPolicy(rule, options)
	if err != nil {
		return nil, err
	}
	scores, err := e.trials.Score(ctx, p)
	for i := range scores {
		scores[i].Policy = name
	}
	return scores, err
}

// score plays all trials with the parameters of a blob.
func (e *evaluator) score(ctx context.Context, blob []byte, greedy bool) (experiment.Report, [][]int, error) {
	policy, err := model.NewPolicy(e.world.config(e.cfg).Model, len(e.seeds), evaluationSeed)
	if err != nil {
		return experiment.Report{}, nil, err
	}
	if err := policy.Load(blob); err != nil {
		return experiment.Report{}, nil, err
	}
	policy.Greedy = greedy
	name := sampledPolicy
	if greedy {
		name = greedyPolicy
	}
	scores, actions, err := e.trials.Play(ctx, name, policy)
	if err != nil {
		return experiment.Report{}, nil, err
	}
	report, err := experiment.NewTrialReport(scores, e.left)
	return report, actions, err
}

// rules are the heuristics to compare with, from the weakest on Park's workload to the strongest.
func (e *evaluator) rules() []string {
	names := loadbalance.PolicyNames()
	if e.trials.Misled(e.world.tasks.Base.Rates) {
		names = slices.Insert(names, slices.Index(names, "left"), misledLEFT)
	}
	return names
}

// about says what the scores are of, where that is more than an episode of one task.
func (e *evaluator) about() string {
	var text string
	if k := e.cfg.Env.EpisodesPerTrial; k > 1 {
		text += fmt.Sprintf("Each seed is a trial of %d episodes on one task, with the policy's memory kept; scores are of the last.\n", k)
	}
	if e.trials.Misled(e.world.tasks.Base.Rates) {
		text += fmt.Sprintf("Rules know each trial's service rates; %s takes them to be as configured.\n", misledLEFT)
	}
	return text
}

// table writes the policy beside the heuristics.
func (e *evaluator) table(ctx context.Context, w io.Writer, blob []byte) error {
	var rows []experiment.Row
	for _, name := range e.rules() {
		scores, err := e.heuristic(ctx, name)
		if err != nil {
			return err
		}
		report, err := experiment.NewTrialReport(scores, e.left)
		if err != nil {
			return err
		}
		rows = append(rows, report.Row())
	}
	for _, greedy := range []bool{false, true} {
		report, _, err := e.score(ctx, blob, greedy)
		if err != nil {
			return err
		}
		rows = append(rows, report.Row())
	}
	if _, err := io.WriteString(w, e.about()); err != nil {
		return err
	}
	return experiment.WriteTable(w, rows)
}

// scoreTask names the task of a run in scores.json, the same for all its seeds.
func scoreTask(cfg protocol.Config) string {
	plain := protocol.DefaultConfig().Env
	task := cfg.Env
	// How the agent is rewarded and shown the loads is no part of the task.
	task.Reward, task.RewardScale, task.TailStart, task.LoadScales = plain.Reward, plain.RewardScale, plain.TailStart, plain.LoadScales
	if reflect.DeepEqual(task, plain) {
		return "park_load_balance"
	}
	task.Workload.File = filepath.Base(task.Workload.File)
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", task))
	return fmt.Sprintf("load_balance_%s_%x", task.Workload.Kind, sum[:4])
}

// savedAgent is the agent of a run's newest checkpoint, and that checkpoint.
func savedAgent(cfg protocol.Config, w *world, dir string, log hclog.Logger) (*dreamer.Agent, *learner.Checkpoint, error) {
	agent, err := newAgent(cfg, w)
	if err != nil {
		return nil, nil, err
	}
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), log)
	if err == nil {
		err = ckpt.Load(learner.Part{Name: learner.StateFile, Load: agent.Load})
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", dir, err), agent.Close())
	}
	return agent, ckpt, nil
}

// savedParams reads the acting parameters of a run's newest checkpoint.
func savedParams(cfg protocol.Config, w *world, dir string, log hclog.Logger) ([]byte, error) {
	agent, _, err := savedAgent(cfg, w, dir, log)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	return agent.Params(nil)
}

func newEvaluateCommand() *cobra.Command {
	var run, seeds, trace, level string
	var jobs int
	var asJSON, sampled bool
	cmd := &cobra.Command{
		Use:   "evaluate",
		Short: "Score a run's newest checkpoint beside the heuristics",
		Long: `Play evaluation trials with the parameters of a run's newest checkpoint, without learning, and
compare the mean job completion times with those of LEFT on the same jobs and servers. Each seed is a
trial as the run trains on: a task drawn from the run's own distribution, and so many episodes of it as
env.episodes_per_trial says, through which the policy keeps its memory. Scores are of the last episode.
A run that trains on a trace file is evaluated on the last fifth of its jobs, the others being what it
trains on. The policy is greedy (its most probable action) unless --sampled is given; its latents are
drawn either way, from a fixed seed, so that the same checkpoint gives the same scores.

With --json the result is one object as of 'env score': policy, seeds, mean_jct and ratio_to_left, and,
where a trial has several episodes, ratio_to_left_by_episode: a list of what ratio_to_left has. With
--trace the last episode of the first seed is written in the format that 'env verify' reads.`,
		Example: `  # The learned policy beside all heuristics.
  dreamfleet evaluate --run runs/small

  # A thousand other seeds, for a program.
  dreamfleet evaluate --run runs/small --seeds 3000-3999 --json

  # Record an episode and check it.
  dreamfleet evaluate --run runs/small --seeds 2000 --trace episode.jsonl.gz
  dreamfleet env verify episode.jsonl.gz`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := savedConfig(run)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("seeds") {
				seeds = cfg.Evaluate.Seeds
			}
			if !cmd.Flags().Changed("jobs") {
				jobs = cfg.Evaluate.Jobs
			}
			w, err := newWorld(cfg)
			if err != nil {
				return err
			}
			blob, err := savedParams(cfg, w, run, newLogger(level, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			e, err := newEvaluator(cmd.Context(), cfg, w, seeds, jobs)
			if err != nil {
				return err
			}
			if w.note != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), w.note)
			}
			if !asJSON && trace == "" {
				return e.table(cmd.Context(), cmd.OutOrStdout(), blob)
			}
			report, actions, err := e.score(cmd.Context(), blob, !sampled)
			if err != nil {
				return err
			}
			if trace != "" {
				if err := e.record(trace, report.Policy, actions[0]); err != nil {
					return err
				}
			}
			if asJSON {
				return report.WriteJSON(cmd.OutOrStdout())
			}
			return experiment.WriteTable(cmd.OutOrStdout(), []experiment.Row{report.Row()})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&run, "run", filepath.Join("runs", "small"), "run `folder`")
	flags.StringVar(&seeds, "seeds", "", "`seeds` of the episodes, such as 2000-2029 (default: those of the run's configuration)")
	flags.IntVar(&jobs, "jobs", 0, "jobs an episode (default: as the run's configuration has it)")
	flags.BoolVar(&asJSON, "json", false, "print JSON instead of a table")
	flags.BoolVar(&sampled, "sampled", false, "draw actions instead of taking the most probable one")
	flags.StringVar(&trace, "trace", "", "`file` to write the episode of the first seed to; gzipped if it ends in .gz")
	flags.StringVar(&level, "log-level", "warn", "trace, debug, info, warn or error")
	must(cmd.MarkFlagDirname("run"))
	return cmd
}

// record writes the last episode of the first seed's trial in the format of recorded traces.
func (e *evaluator) record(path, policy string, actions []int) (err error) {
	recording, err := e.trials.Recording(policy, actions)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return writeMaybeGzipped(f, path, recording.Write)
}
