package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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

// evaluator scores parameters on the evaluation episodes of a run, which nothing is trained on.
type evaluator struct {
	cfg      protocol.Config
	world    *world
	seeds    []uint64
	episodes *loadbalance.Episodes
	left     experiment.Scores
}

// evaluationSeed is that of the agent's own draws; jobs come from the episodes' seeds.
const evaluationSeed = 0xe7a1

func newEvaluator(cfg protocol.Config, w *world, seeds string, jobs int) (*evaluator, error) {
	e := &evaluator{cfg: cfg, world: w}
	var err error
	if e.seeds, err = protocol.ParseSeeds(seeds); err != nil {
		return nil, fmt.Errorf("%w: seeds: %w", protocol.ErrConfig, err)
	}
	base := w.tasks.Base
	workload := base.Workload
	if workload == nil {
		if workload, err = loadbalance.NewWorkload(loadbalance.WorkloadConfig{
			Kind: loadbalance.Poisson, Interval: base.Interval, Shape: base.Shape, Scale: base.Scale,
		}, base.Rates); err != nil {
			return nil, err
		}
	}
	if e.episodes, err = loadbalance.NewEpisodes(workload, base.Rates, e.seeds, jobs); err != nil {
		return nil, err
	}
	e.left, err = e.heuristic("left")
	return e, err
}

func (e *evaluator) heuristic(name string) (experiment.Scores, error) {
	p, err := loadbalance.NewPolicy(name, loadbalance.PolicyOptions{})
	if err != nil {
		return experiment.Scores{}, err
	}
	jct, err := e.episodes.Score(p)
	return experiment.Scores{Policy: name, Seeds: e.seeds, MeanJCT: jct}, err
}

// score plays all episodes with the parameters of a blob.
func (e *evaluator) score(blob []byte, greedy bool) (experiment.Report, [][]int, error) {
	policy, err := model.NewPolicy(e.world.config(e.cfg).Model, len(e.seeds), evaluationSeed)
	if err != nil {
		return experiment.Report{}, nil, err
	}
	if err := policy.Load(blob); err != nil {
		return experiment.Report{}, nil, err
	}
	policy.Greedy = greedy
	cfg, task := e.world.env, e.world.tasks.Base
	cfg.Jobs = len(e.episodes.Jobs[0])
	jct, actions, err := experiment.Evaluate(cfg, &task, policy, e.seeds)
	if err != nil {
		return experiment.Report{}, nil, err
	}
	name := sampledPolicy
	if greedy {
		name = greedyPolicy
	}
	report, err := experiment.NewReport(experiment.Scores{Policy: name, Seeds: e.seeds, MeanJCT: jct}, e.left)
	return report, actions, err
}

// table writes the policy beside the heuristics.
func (e *evaluator) table(w io.Writer, blob []byte) error {
	var rows []experiment.Row
	for _, name := range loadbalance.PolicyNames() {
		scores, err := e.heuristic(name)
		if err != nil {
			return err
		}
		report, err := experiment.NewReport(scores, e.left)
		if err != nil {
			return err
		}
		rows = append(rows, report.Row())
	}
	for _, greedy := range []bool{false, true} {
		report, _, err := e.score(blob, greedy)
		if err != nil {
			return err
		}
		rows = append(rows, report.Row())
	}
	return experiment.WriteTable(w, rows)
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
		Long: `Play the evaluation episodes with the parameters of a run's newest checkpoint, without learning,
and compare the mean job completion times with those of LEFT on the same jobs. The policy is greedy
(its most probable action) unless --sampled is given; its latents are drawn either way, from a fixed
seed, so that the same checkpoint gives the same scores.

With --json the result is one object as of 'env score': policy, seeds, mean_jct and ratio_to_left.
With --trace the episode of the first seed is written in the format that 'env verify' reads.`,
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
			e, err := newEvaluator(cfg, w, seeds, jobs)
			if err != nil {
				return err
			}
			if !asJSON && trace == "" {
				return e.table(cmd.OutOrStdout(), blob)
			}
			report, actions, err := e.score(blob, !sampled)
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

// record writes the first episode in the format of recorded traces.
func (e *evaluator) record(path, policy string, actions []int) (err error) {
	base := e.world.tasks.Base
	recording := loadbalance.Recording{Policy: policy, Rates: base.Rates, Actions: actions}
	if base.Workload != nil {
		recording.Jobs = e.episodes.Jobs[0]
	} else {
		recording.Seed = uint32(e.seeds[0])
		recording.Interval, recording.Shape, recording.Scale = base.Interval, base.Shape, base.Scale
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return writeMaybeGzipped(f, path, recording.Write)
}
