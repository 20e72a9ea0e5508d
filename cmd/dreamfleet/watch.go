package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/term"

	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// watch looks at a run from outside: it ends it when its steps are used up, evaluates now and
// then, records metrics and shows progress.
type watch struct {
	cfg       protocol.Config
	dir       string
	out       io.Writer
	log       hclog.Logger
	evaluator *evaluator
	recorder  *monitor.Recorder
	history   *monitor.History
	intake    intake
	actors    []*actor.Actor  // of this process
	buses     []*protocol.Bus // of this process
	updates   func() int64
	staleness func() []uint64 // of what is replayed, see learner.Loop
	started   time.Time
	arrived   chan struct{} // a token after an insert

	mu       sync.Mutex
	blob     []byte             // newest parameters
	version  uint64             // of blob
	values   map[string]float64 // of the last record
	ended    endedEpisodes      // since the last record
	scored   map[string]float64 // the latest evaluation's values
	latest   *monitor.Evaluation
	interval [2]float64 // of latest
	phase    string
}

// endedEpisodes sums up episodes of training.
type endedEpisodes struct {
	Count int     `json:"count"`
	JCT   float64 `json:"jct"` // sum of their mean job completion times
}

// newWatch opens the metrics of a run folder, to go on after so many updates. Intake and updates
// are to be set before it runs.
func newWatch(cfg protocol.Config, dir string, updates int64, e *evaluator, out io.Writer, log hclog.Logger) (*watch, error) {
	now := time.Now
	if cfg.Lockstep {
		now = nil
	}
	recording := monitor.RecorderConfig{Dir: dir, Step: updates, Now: now}
	if cfg.Lockstep {
		recording.Ending = "evaluation/" + policyName(cfg.Learner.Algorithm, true)
	}
	warn := func(err error) {
		fmt.Fprintln(out, "warning:", err)
		log.Warn("damaged", "error", err)
	}
	history := monitor.NewHistory()
	recording.Kept = func(m monitor.Metrics) { history.Add(m.Time, m.Values) }
	recording.Warn = func(err error) { warn(fmt.Errorf("%w; the line is dropped", err)) }
	recorder, err := monitor.OpenRecorder(recording)
	if err != nil {
		return nil, err
	}
	if err := checkScores(filepath.Join(dir, scoresFile), warn); err != nil {
		return nil, errors.Join(err, recorder.Close())
	}
	return &watch{
		cfg: cfg, dir: dir, out: out, log: log, evaluator: e, recorder: recorder, history: history,
		started: time.Now(), arrived: make(chan struct{}, 1), values: map[string]float64{},
	}, nil
}

const scoresFile = "scores.json"

// checkScores sets a damaged file of scores aside: found out at the end of a run, it would cost the
// run's own.
func checkScores(path string, warn func(error)) error {
	_, err := monitor.ReadScores(path)
	if !errors.Is(err, monitor.ErrDamaged) {
		return err
	}
	aside := path + ".damaged"
	for n := 2; ; n++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s.damaged-%d", path, n)
	}
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("set damaged scores aside: %w", err)
	}
	warn(fmt.Errorf("%w; it is kept as %s", err, filepath.Base(aside)))
	return nil
}

// Intervals of looking at how many steps there are, and of showing progress where no terminal
// redraws it.
const (
	watchInterval    = 20 * time.Millisecond
	terminalInterval = time.Second
	lineInterval     = 15 * time.Second
)

// run watches until ctx ends. It calls stop when the run's steps are used up.
func (w *watch) run(ctx context.Context, stop context.CancelCauseFunc) error {
	width, tty := terminal(w.out)
	progress := monitor.NewProgress(w.out, monitor.ProgressConfig{Terminal: tty, Width: width})
	interval := lineInterval
	if tty {
		interval = terminalInterval
	}
	show := time.NewTicker(interval)
	defer show.Stop()
	var side sync.WaitGroup
	defer side.Wait()
	side.Go(func() {
		if err := progress.Run(ctx, show.C, w.snapshot); err != nil && ctx.Err() == nil {
			w.log.Warn("progress is not shown", "error", err)
		}
	})

	if w.cfg.Lockstep { // what is looked at here would depend on the clock
		return nil
	}
	if limit := w.cfg.Budget.Steps; limit > 0 {
		side.Go(func() {
			if w.reach(ctx, limit) {
				stop(errSteps{limit})
			}
		})
	}
	every := w.cfg.Evaluate.Every
	if every <= 0 {
		return nil
	}
	for steps := int64(w.intake.steps()); w.reach(ctx, (steps/every+1)*every); {
		steps = int64(w.intake.steps())
		if blob := w.params(); blob != nil {
			if err := w.evaluate(ctx, blob, steps); err != nil && ctx.Err() == nil {
				w.log.Error("evaluation failed", "error", err)
			}
		}
	}
	return nil
}

// reach waits until there are so many environment steps, and reports whether there are or ctx ended
// before.
func (w *watch) reach(ctx context.Context, steps int64) bool {
	look := time.NewTicker(watchInterval)
	defer look.Stop()
	for int64(w.intake.steps()) < steps {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
	return ctx.Err() == nil
}

func (w *watch) params() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blob
}

// evaluate scores parameters, greedy and sampled, and keeps the scores.
func (w *watch) evaluate(ctx context.Context, blob []byte, steps int64) error {
	w.setPhase("evaluating")
	defer w.setPhase("")
	values := map[string]float64{"env/steps": float64(steps)}
	if !w.cfg.Lockstep {
		values[experiment.MetricSeconds] = time.Since(w.started).Seconds()
	}
	for _, greedy := range []bool{true, false} {
		report, _, err := w.evaluator.score(ctx, blob, greedy)
		if err != nil {
			return err
		}
		values["evaluation/"+report.Policy] = report.RatioToLEFT.IQM
		values["evaluation/"+report.Policy+"_low"] = report.RatioToLEFT.CI95[0]
		values["evaluation/"+report.Policy+"_high"] = report.RatioToLEFT.CI95[1]
		values["evaluation/"+report.Policy+"_median"] = report.RatioToLEFT.Median
		values["evaluation/"+report.Policy+"_mean"] = report.RatioToLEFT.Mean
		if greedy {
			w.mu.Lock()
			w.latest = &monitor.Evaluation{EnvSteps: steps, Ratio: report.RatioToLEFT.IQM}
			w.interval = report.RatioToLEFT.CI95
			w.mu.Unlock()
		}
		for k, ratio := range report.ByEpisode {
			values[fmt.Sprintf("evaluation/%s_episode_%d", report.Policy, k+1)] = ratio.IQM
		}
		err = monitor.AppendScore(filepath.Join(w.dir, scoresFile), scoreTask(w.cfg), report.Policy, w.cfg.Seed,
			float64(steps), report.RatioToLEFT.IQM)
		if err != nil {
			return err
		}
	}
	w.mu.Lock()
	w.scored = values
	w.mu.Unlock()
	w.history.Add(w.clock(), values)
	return w.recorder.Record(w.updates(), values)
}

func (w *watch) setPhase(phase string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.phase = phase
}

// published keeps the newest parameters.
func (w *watch) published(version uint64, blob []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version, w.blob = version, blob
}

// inserted takes in what the intake has taken.
func (w *watch) inserted(c *protocol.Chunk) {
	w.mu.Lock()
	for _, e := range c.Episodes {
		w.ended.Count++
		w.ended.JCT += e.MeanJCT
	}
	w.mu.Unlock()
	select {
	case w.arrived <- struct{}{}:
	default:
	}
}

// countBuses adds what the connections of this process have counted: above all what was refused,
// which nobody would see otherwise.
func (w *watch) countBuses(values map[string]float64) {
	for _, bus := range w.buses {
		s := bus.Stats()
		for reason, n := range s.DeadLettered {
			values["bus/dead_lettered_"+reason] += float64(n)
		}
		for reason, n := range s.Refused {
			values["bus/refused_"+reason] += float64(n)
		}
		values["bus/denied"] += float64(s.Denied)
		values["bus/publish_failed"] += float64(s.PublishFailed)
		values["bus/redelivered"] += float64(s.Redelivered)
		values["bus/disconnects"] += float64(s.Disconnects)
		values["bus/errors"] += float64(s.AsyncErrors + s.SlowConsumers)
	}
}

// Record adds the other roles' numbers to the learner's.
func (w *watch) Record(step int64, values map[string]float64) error {
	values["env/steps"] = float64(w.intake.steps())
	w.intake.measure(values, w.cfg.Lockstep)
	if !w.cfg.Lockstep {
		values[experiment.MetricSeconds] = time.Since(w.started).Seconds()
		var dropped, rejected uint64
		for _, a := range w.actors {
			st := a.Stats()
			dropped += st.Dropped + st.Refused
			rejected += st.ParamsRejected
		}
		values["actor/chunks_dropped"] = float64(dropped)
		values["actor/params_rejected"] = float64(rejected)
		w.countBuses(values)
	}
	w.mu.Lock()
	if w.ended.Count > 0 {
		values["env/mean_jct"] = w.ended.JCT / float64(w.ended.Count)
		values["env/episodes"] = float64(w.ended.Count)
		w.ended = endedEpisodes{}
	}
	w.values = values
	w.mu.Unlock()
	w.history.Add(w.clock(), values)
	return w.recorder.Record(step, values)
}

// clock is the time in seconds since 1970, 0 in lockstep as in the metrics.
func (w *watch) clock() float64 {
	if w.cfg.Lockstep {
		return 0
	}
	return float64(time.Now().Unix())
}

// curvesInterval is how often the curves so far go to the bus, where there are new
// points: some 100 KB for all who watch together.
const curvesInterval = 10 * time.Second

// publishCurves leaves the run's curves, and the rules to compare them with, on the
// bus until ctx ends.
func (w *watch) publishCurves(ctx context.Context, bus *protocol.Bus) error {
	for _, name := range w.evaluator.rules() {
		scores, err := w.evaluator.heuristic(ctx, name)
		if err != nil {
			return ended(ctx, err)
		}
		report, err := experiment.NewTrialReport(scores, w.evaluator.left)
		if err != nil {
			return err
		}
		w.history.SetLevel(name, report.RatioToLEFT.IQM)
	}
	ticker := time.NewTicker(curvesInterval)
	defer ticker.Stop()
	for sent := uint64(0); ; {
		curves, changes, err := w.history.Encode()
		if err != nil {
			return err
		}
		if changes != sent {
			if err := bus.PutCurves(ctx, curves); err != nil && ctx.Err() == nil {
				w.log.Warn("curves were not left on the bus", "error", err)
			} else {
				sent = changes
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// snapshot is what the progress display shows.
func (w *watch) snapshot() monitor.Snapshot {
	cfg, steps := w.cfg, int64(w.intake.steps())
	w.mu.Lock()
	defer w.mu.Unlock()
	snap := monitor.Snapshot{
		Run: cfg.Run, Phase: w.phase, Elapsed: time.Since(w.started), Duration: cfg.Budget.Duration,
		EnvSteps: steps, StepLimit: cfg.Budget.Steps, TrainSteps: w.updates(),
		Staleness: w.values["learner/staleness"], ReplaySteps: w.intake.held(), ReplayCapacity: cfg.Replay.Capacity,
		Evaluation: w.latest,
	}
	if onPolicy(cfg) {
		snap.ReplayCapacity = 0
	}
	for _, name := range []string{"reconstruction", "reward", "kl", "critic", "actor"} {
		if v, ok := w.values["loss/"+name]; ok {
			snap.Losses = append(snap.Losses, monitor.Value{Name: name, Value: v})
		}
	}
	switch {
	case snap.Phase != "":
	case !onPolicy(cfg) && steps < cfg.Learner.Prefill:
		snap.Phase = "filling the replay"
	default:
		snap.Phase = "training"
	}
	return snap
}

// status returns what fills the learner's heartbeat. It belongs to one goroutine.
func (w *watch) status() func(*protocol.Status) {
	var rate protocol.Rate
	return func(status *protocol.Status) {
		s := w.snapshot()
		l := &protocol.LearnerStatus{
			Phase: s.Phase, Updates: s.TrainSteps, UpdatesPerSecond: rate.Per(time.Now(), uint64(s.TrainSteps)),
			EnvSteps: s.EnvSteps, StepLimit: s.StepLimit, ElapsedSeconds: s.Elapsed.Seconds(), DurationSeconds: s.Duration.Seconds(),
			Staleness: s.Staleness, StalenessCounts: w.staleness(), Metrics: map[string]float64{},
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		maps.Copy(l.Metrics, w.scored)
		maps.Copy(l.Metrics, w.values)
		l.ParamVersion = w.version
		if w.latest != nil {
			l.Evaluation = &protocol.EvaluationStatus{EnvSteps: w.latest.EnvSteps, Ratio: w.latest.Ratio, Interval: w.interval}
		}
		status.Learner = l
	}
}

// report says why the run ended and shows the policy beside the heuristics.
func (w *watch) report(ctx context.Context, why string, blob []byte) error {
	s := w.snapshot()
	fmt.Fprintf(w.out, "\nEnded after %d environment steps and %d updates: %s.\n", s.EnvSteps, s.TrainSteps, why)
	err := w.results(ctx, s.EnvSteps, blob)
	if ctx.Err() != nil {
		fmt.Fprintf(w.out, "Everything is in %s; the same command goes on.\n", w.dir)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(w.out, "\nWritten to %s: config.yaml, metrics.jsonl, TensorBoard events, scores.json, log.txt and checkpoints.\n", w.dir)
	return nil
}

// results shows the table first: what is shown does not depend on what can be written.
func (w *watch) results(ctx context.Context, steps int64, blob []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprintf(w.out, "\nEvaluation seeds %s, never trained on:\n\n", w.cfg.Evaluate.Seeds)
	if err := w.evaluator.table(ctx, w.out, blob); err != nil {
		return err
	}
	return w.evaluate(ctx, blob, steps)
}

// tap publishes parameters and keeps the newest for evaluation.
type tap struct {
	learner.Publisher
	watch *watch
}

func (p tap) Publish(ctx context.Context, version uint64, blob []byte) error {
	p.watch.published(version, blob)
	return p.Publisher.Publish(ctx, version, blob)
}

// terminal says whether out is one, and how to ask for its width.
func terminal(out io.Writer) (width func() int, ok bool) {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, false
	}
	return func() int {
		w, _, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 80
		}
		return w
	}, true
}
