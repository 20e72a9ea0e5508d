package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
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
			return nil, fmt.Errorf("%w: evaluation has %d jobs an episode (evaluate.jobs or --jobs), but the part of %s that it has (evaluate.share) is %d jobs",
				protocol.ErrConfig, jobs, cfg.Env.Workload.File, w.heldBack.Jobs())
		}
		tasks.Base.Workload = w.heldBack
		if cfg.Evaluate.Cut {
			tasks.Base.Workload = loadbalance.Dated{Trace: w.heldBack}
		}
	}
	if e.trials, err = experiment.NewTrials(ctx, shown, tasks, cfg.Env.EpisodesPerTrial, e.seeds); err != nil {
		return nil, fmt.Errorf("evaluation: %w", err)
	}
	e.trials.Blind = !cfg.Env.RL2Inputs
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
	scores, actions, err := e.play(ctx, blob, greedy, nil)
	if err != nil {
		return experiment.Report{}, nil, err
	}
	report, err := experiment.NewTrialReport(scores, e.left)
	return report, actions, err
}

// play has the policy of a blob play all trials: one Scores for each episode of a trial. notes, where
// not nil, is given the policy and acts in its place.
func (e *evaluator) play(ctx context.Context, blob []byte, greedy bool, notes *witness) ([]experiment.Scores, [][]int, error) {
	policy, err := newPolicy(e.cfg, e.world, len(e.seeds), evaluationSeed, greedy)
	if err != nil {
		return nil, nil, err
	}
	if err := policy.Load(blob); err != nil {
		return nil, nil, err
	}
	name := policyName(e.cfg.Learner.Algorithm, greedy)
	if notes != nil {
		notes.policy = policy
		return e.trials.Play(ctx, name, notes)
	}
	return e.trials.Play(ctx, name, policy)
}

// results are the scores of a policy in each episode of the trials, as lines of an experiment.
func (e *evaluator) results(method, mode, seeds string, scores []experiment.Scores) []experiment.Result {
	var results []experiment.Result
	for k, s := range scores {
		results = append(results, experiment.Result{
			Method: method, Test: cmp.Or(e.cfg.Env.Name, e.cfg.Env.Workload.Kind), Mode: mode, Episode: k + 1, Seeds: seeds, MeanJCT: s.MeanJCT,
		})
	}
	return results
}

// heldBackLosses are the world model's on sequences of the evaluated tasks that are the same for every checkpoint.
func (e *evaluator) heldBackLosses(ctx context.Context, m experiment.WorldModel, jobs int) (map[string]float64, error) {
	shown, tasks, batch := e.world.env, *e.world.tasks, batchShape(e.cfg, e.world)
	shown.Jobs = jobs
	if e.world.heldBack != nil {
		tasks.Base.Workload = e.world.heldBack
	}
	h, err := experiment.NewHeldBack(ctx, shown, tasks, e.cfg.Env.EpisodesPerTrial, !e.cfg.Env.RL2Inputs, batch.Size, batch.Length)
	if err != nil {
		return nil, err
	}
	return h.Losses(ctx, m, batch.ContextLen)
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
	rows, err := e.rows(ctx)
	if err != nil {
		return err
	}
	for _, greedy := range []bool{false, true} {
		report, _, err := e.score(ctx, blob, greedy)
		if err != nil {
			return err
		}
		rows = append(rows, report.Row())
	}
	return e.write(w, rows)
}

// rows are those of the heuristics.
func (e *evaluator) rows(ctx context.Context) (rows []experiment.Row, err error) {
	for _, name := range e.rules() {
		scores, err := e.heuristic(ctx, name)
		if err != nil {
			return nil, err
		}
		report, err := experiment.NewTrialReport(scores, e.left)
		if err != nil {
			return nil, err
		}
		rows = append(rows, report.Row())
	}
	return rows, nil
}

// write explains rows and writes them.
func (e *evaluator) write(w io.Writer, rows []experiment.Row) error {
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
	task.Name, task.ObserveMask, task.ObserveMeasured, task.RL2Inputs = plain.Name, plain.ObserveMask, plain.ObserveMeasured, plain.RL2Inputs
	if reflect.DeepEqual(task, plain) {
		return "park_load_balance"
	}
	task.Workload.File = filepath.Base(task.Workload.File)
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", task))
	return fmt.Sprintf("load_balance_%s_%x", task.Workload.Kind, sum[:4])
}

// savedAgent is the agent of a run's newest checkpoint, and that checkpoint.
func savedAgent(cfg protocol.Config, w *world, dir string, log hclog.Logger) (agent, *learner.Checkpoint, error) {
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

// evaluateFlags say what is evaluated on what.
type evaluateFlags struct {
	run, policy, file, seeds, trace, view, level string
	sets                                         []string
	jobs                                         int
	asJSON, asResults, sampled, rules, predicted bool
	imagination                                  bool
}

func newEvaluateCommand() *cobra.Command {
	var f evaluateFlags
	cmd := &cobra.Command{
		Use:   "evaluate",
		Short: "Score a run's newest checkpoint beside the heuristics",
		Long: `Play evaluation trials with the parameters of a run's newest checkpoint, without learning, and
compare the mean job completion times with those of LEFT on the same jobs and servers. Each seed is a
trial as the run trains on: a task drawn from the run's own distribution, and so many episodes of it as
env.episodes_per_trial says, through which the policy keeps its memory. Scores are of the last episode.
A run that trains on a trace file is evaluated on the last part of its jobs (evaluate.share), the others
being what it trains on. The policy is greedy (its most probable action) unless --sampled is given; its
latents are drawn either way, from a fixed seed, so that the same checkpoint gives the same scores.

With --config and --set the trials are of another task: keys of env and evaluate are laid over the run's
own. The networks must fit: observations and actions keep their number. Whether a policy observes which
servers take jobs is as it was trained; it never chooses one that does not.

With --json the result is one object as of 'env score': policy, seeds, mean_jct and ratio_to_left, and,
where a trial has several episodes, ratio_to_left_by_episode: a list of what ratio_to_left has. With
--results it is one object a line for each episode of the trials, of the greedy and of the sampled
policy, as an experiment keeps them: the task is called env.name. With --trace the last episode of the
first seed is written in the format that 'env verify' reads.

With --imagination the world model is looked at in place of the scores: for each value of an observation, quantiles of
what came in the first trials and of what was predicted one and eight steps ahead. A model that imagines
no large jobs trains a policy for a world without them.

With --policy the parameters and the configuration are those of a file that 'dreamfleet export' wrote.
With --rules there is no run: the heuristics alone are scored, on the defaults under --config and --set.`,
		Example: `  # The learned policy beside all heuristics.
  dreamfleet evaluate --run runs/small

  # A thousand other seeds, for a program.
  dreamfleet evaluate --run runs/small --seeds 3000-3999 --json

  # A task that it was not trained on.
  dreamfleet evaluate --run runs/small --set env.workload.load=0.7 --set env.workload.kind=mmpp

  # A trace, whole, cut into episodes by date.
  dreamfleet evaluate --run runs/small --set env.workload.kind=swf --set env.workload.file=log.swf.gz \
      --set env.workload.load=0.9 --set evaluate.share=1 --set evaluate.cut=true --seeds 0-9

  # Record an episode for the dashboard to play.
  dreamfleet evaluate --run runs/small --seeds 3000 --view seed-3000

  # Are the world model's jobs like the real ones?
  dreamfleet evaluate --run runs/small --imagination

  # Record an episode and check it.
  dreamfleet evaluate --run runs/small --seeds 2000 --trace episode.jsonl.gz
  dreamfleet env verify episode.jsonl.gz`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.rules {
				return f.scoreRules(cmd)
			}
			return f.evaluate(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.run, "run", filepath.Join("runs", "small"), "run `folder`")
	flags.StringVar(&f.policy, "policy", "", "policy `file` instead of a run")
	flags.StringVar(&f.file, "config", "", "YAML `file` with env and evaluate keys of another task")
	flags.StringArrayVar(&f.sets, "set", nil, "`key=value` over the file; may be repeated")
	flags.StringVar(&f.seeds, "seeds", "", "`seeds` of the episodes, such as 2000-2029 (default: those of the configuration)")
	flags.IntVar(&f.jobs, "jobs", 0, "jobs an episode (default: as the configuration has it)")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON instead of a table")
	flags.BoolVar(&f.asResults, "results", false, "print a line of JSON for each episode of the trials, greedy and sampled, instead of a table")
	flags.BoolVar(&f.predicted, "world-model", false, "with --results: measure the world model, where there is one, on held-back sequences of the task")
	flags.BoolVar(&f.rules, "rules", false, "score the heuristics alone")
	flags.BoolVar(&f.sampled, "sampled", false, "draw actions instead of taking the most probable one")
	flags.StringVar(&f.trace, "trace", "", "`file` to write the episode of the first seed to; gzipped if it ends in .gz")
	flags.StringVar(&f.view, "view", "", "record the last episode of the first seed under this `name` for the dashboard, with what the world model predicts")
	flags.BoolVar(&f.imagination, "imagination", false, "compare what the world model imagines with what happens, value by value of an observation")
	flags.StringVar(&f.level, "log-level", "warn", "trace, debug, info, warn or error")
	must(cmd.MarkFlagDirname("run"))
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	cmd.MarkFlagsMutuallyExclusive("json", "results")
	cmd.MarkFlagsMutuallyExclusive("trace", "results")
	for _, other := range []string{"json", "results", "trace"} {
		cmd.MarkFlagsMutuallyExclusive("view", other)
		cmd.MarkFlagsMutuallyExclusive("imagination", other)
	}
	cmd.MarkFlagsMutuallyExclusive("imagination", "view")
	for _, name := range []string{"run", "policy", "trace", "sampled", "json", "world-model", "imagination"} {
		cmd.MarkFlagsMutuallyExclusive("rules", name)
	}
	for _, name := range []string{"run", "view", "world-model", "imagination"} { // which need all of a checkpoint
		cmd.MarkFlagsMutuallyExclusive("policy", name)
	}
	return cmd
}

// overlay lays the task that was asked for over a configuration.
func (f *evaluateFlags) overlay(cmd *cobra.Command, base protocol.Config) (protocol.Config, error) {
	cfg := base
	if f.file != "" {
		document, err := readConfigFile(f.file)
		if err != nil {
			return cfg, err
		}
		if err := cfg.Merge(f.file, document); err != nil {
			return cfg, err
		}
	}
	for _, set := range f.sets {
		if err := cfg.Set(set); err != nil {
			return cfg, err
		}
	}
	for _, d := range protocol.Differences(base, cfg) {
		if !strings.HasPrefix(d.Key, "env.") && !strings.HasPrefix(d.Key, "evaluate.") {
			return cfg, fmt.Errorf("%w: %s is %s: an evaluation changes keys of env and evaluate only", protocol.ErrConfig, d.Key, d.Now)
		}
	}
	if cmd.Flags().Changed("seeds") {
		cfg.Evaluate.Seeds = f.seeds
	}
	if cmd.Flags().Changed("jobs") {
		cfg.Evaluate.Jobs = f.jobs
	}
	return cfg, cfg.Validate()
}

// otherTask is the world of a task that a run is evaluated on, seen as the run sees its own.
func otherTask(dir string, saved, cfg protocol.Config) (*world, error) {
	trained, err := newWorld(saved)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(cfg)
	if err != nil {
		return nil, err
	}
	w.env.ObserveMask = trained.env.ObserveMask
	if err := w.measure(); err != nil {
		return nil, err
	}
	if trained.heldBack != nil && filepath.Clean(saved.Env.Workload.File) == filepath.Clean(cfg.Env.Workload.File) && cfg.Evaluate.Share > saved.Evaluate.Share {
		return nil, fmt.Errorf("%w: evaluate.share is %g, but %s trained on all of %s but the last %g",
			protocol.ErrConfig, cfg.Evaluate.Share, dir, cfg.Env.Workload.File, saved.Evaluate.Share)
	}
	return w, fits(dir, trained, w)
}

func (f *evaluateFlags) evaluate(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	from := cmp.Or(f.policy, f.run)
	var saved protocol.Config
	var blob []byte
	var err error
	if f.policy != "" {
		saved, blob, err = readPolicy(f.policy)
	} else {
		saved, err = savedConfig(f.run)
	}
	if err != nil {
		return err
	}
	cfg, err := f.overlay(cmd, saved)
	if err != nil {
		return err
	}
	w, err := otherTask(from, saved, cfg)
	if err != nil {
		return err
	}
	var trained agent // none of a policy file
	if f.policy == "" {
		if trained, _, err = savedAgent(cfg, w, f.run, newLogger(f.level, cmd.ErrOrStderr())); err != nil {
			return err
		}
		defer trained.Close()
		if blob, err = trained.Params(nil); err != nil {
			return err
		}
	}
	e, err := newEvaluator(ctx, cfg, w, cfg.Evaluate.Seeds, cfg.Evaluate.Jobs)
	if err != nil {
		return err
	}
	if w.note != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), w.note)
	}
	if f.asResults {
		return f.writeResults(ctx, out, e, trained, blob)
	}
	if f.imagination {
		return e.writeImagination(ctx, blob, !f.sampled, f.run, out, newLogger(f.level, cmd.ErrOrStderr()))
	}
	if f.view != "" {
		return e.recordView(ctx, blob, !f.sampled, f.run, f.view, out, newLogger(f.level, cmd.ErrOrStderr()))
	}
	if !f.asJSON && f.trace == "" {
		return e.table(ctx, out, blob)
	}
	report, actions, err := e.score(ctx, blob, !f.sampled)
	if err != nil {
		return err
	}
	if f.trace != "" {
		if err := e.record(f.trace, report.Policy, actions[0]); err != nil {
			return err
		}
	}
	if f.asJSON {
		return report.WriteJSON(out)
	}
	return experiment.WriteTable(out, []experiment.Row{report.Row()})
}

// writeResults writes the scores of the greedy and the sampled policy. What the world model was measured at stands
// beside the greedy ones.
func (f *evaluateFlags) writeResults(ctx context.Context, out io.Writer, e *evaluator, agent any, blob []byte) error {
	var losses map[string]float64
	if m, ok := agent.(experiment.WorldModel); ok && f.predicted {
		var err error
		if losses, err = e.heldBackLosses(ctx, m, e.cfg.Evaluate.Jobs); err != nil {
			return err
		}
	}
	for _, mode := range []string{experiment.Greedy, experiment.Sampled} {
		scores, _, err := e.play(ctx, blob, mode == experiment.Greedy, nil)
		if err != nil {
			return err
		}
		for _, r := range e.results("policy", mode, e.cfg.Evaluate.Seeds, scores) {
			r.Seed = e.cfg.Seed
			if mode == experiment.Greedy {
				r.Model = losses
			}
			if err := r.WriteJSON(out); err != nil {
				return err
			}
		}
	}
	return nil
}

// scoreRules scores the heuristics with no run.
func (f *evaluateFlags) scoreRules(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	cfg, err := f.overlay(cmd, protocol.DefaultConfig())
	if err != nil {
		return err
	}
	w, err := newWorld(cfg)
	if err != nil {
		return err
	}
	e, err := newEvaluator(ctx, cfg, w, cfg.Evaluate.Seeds, cfg.Evaluate.Jobs)
	if err != nil {
		return err
	}
	if !f.asResults {
		rows, err := e.rows(ctx)
		if err != nil {
			return err
		}
		return e.write(out, rows)
	}
	for _, name := range e.rules() {
		scores, err := e.heuristic(ctx, name)
		if err != nil {
			return err
		}
		for _, r := range e.results(name, experiment.Rule, cfg.Evaluate.Seeds, scores) {
			if err := r.WriteJSON(out); err != nil {
				return err
			}
		}
	}
	return nil
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
