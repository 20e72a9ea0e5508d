package learner

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

// Config is the loop's schedule, in updates.
type Config struct {
	// Lockstep leaves out all that depends on the clock, samples and publishes
	// in place, and continues a run exactly where its checkpoint was written.
	Lockstep bool

	// InPlace samples and publishes in place, never on the side or ahead, so
	// that what is sampled can be of the parameters published before.
	InPlace bool

	PublishEvery    int64 // updates between parameter versions
	CheckpointEvery int64 // updates between checkpoints
	LogEvery        int64 // updates between calls of the Recorder
	KeepCheckpoints int   // newest valid checkpoints to keep
	MaxSkipped      int   // skipped updates in a row after which the last checkpoint is restored

	// ConfigDigest stands for the settings that a checkpoint is tied to. One
	// written under another digest is refused.
	ConfigDigest string
}

// Deps are what the loop works with. All but Extra, Saved and Watchdog are needed.
type Deps struct {
	Source    Source
	Algorithm Algorithm
	Publisher Publisher
	Recorder  Recorder

	Checkpoints string            // folder of the checkpoints, created when missing
	Extra       []Part            // further state that each checkpoint holds: in lockstep, the actors'
	Saved       func(*Checkpoint) // told of each one; the loop waits for it, and may delete the checkpoint later

	Watchdog *watchdog.Watchdog // told of the progress; nil: nobody is

	Now func() time.Time
	Log hclog.Logger
}

// Errors that end a run.
var (
	// ErrDiverged: updates remained non-finite after restoring the last
	// checkpoint maxRestores times.
	ErrDiverged = errors.New("training does not recover from non-finite updates")
	// ErrConfig: the checkpoint belongs to other settings.
	ErrConfig = errors.New("checkpoint was written under other settings")
)

const (
	// StateFile is the name of the Algorithm's part of a checkpoint.
	StateFile = "state.safetensors"

	// maxCheckpointAge bounds what a crash can lose where updates are slow.
	maxCheckpointAge = 10 * time.Minute
	// maxRestores is how often the last checkpoint is restored without a newer
	// one written in between. Batches differ each time, so that one bad draw
	// passes; what fails three times is in the parameters.
	maxRestores = 3
	// versionJump exceeds the versions that can go out between a checkpoint
	// and a crash: at a hundred a second, in more than two hours.
	versionJump = 1 << 20
)

// Loop trains until its context ends. It belongs to one goroutine.
type Loop struct {
	cfg   Config
	deps  Deps
	log   hclog.Logger
	ckpts *Checkpoints

	state    Counters
	updates  atomic.Int64
	saved    atomic.Int64 // when the last checkpoint was written, Unix ms; 0: none by this process
	learning *watchdog.Loop
	casting  *watchdog.Loop
	batch    protocol.Batch
	ahead    *prefetcher   // nil: sample in place
	sending  chan struct{} // holds a token while a version goes out
	interval meter
	ages     ages

	skippedInRow   int
	restoresInRow  int // without a checkpoint in between
	checkpointedAt time.Time
	recordedAt     time.Time
	recorded       Counters
	waited         time.Duration // for batches, since recordedAt
}

// New checks its settings and returns a loop that Run or Start sets going.
func New(cfg Config, deps Deps) (*Loop, error) {
	for _, setting := range []struct {
		name  string
		value int64
	}{
		{"publish_every", cfg.PublishEvery},
		{"checkpoint_every", cfg.CheckpointEvery},
		{"log every", cfg.LogEvery},
		{"keep_checkpoints", int64(cfg.KeepCheckpoints)},
		{"max_skipped", int64(cfg.MaxSkipped)},
	} {
		if setting.value < 1 {
			return nil, fmt.Errorf("learner: %s is %d, at least 1 is needed", setting.name, setting.value)
		}
	}
	parts := append([]Part{{Name: StateFile, Save: deps.Algorithm.Save, Load: deps.Algorithm.Load}}, deps.Extra...)
	ckpts, err := OpenCheckpoints(deps.Checkpoints, cfg.KeepCheckpoints, parts, deps.Log)
	if err != nil {
		return nil, fmt.Errorf("learner: %w", err)
	}
	return &Loop{
		cfg: cfg, deps: deps, log: deps.Log, ckpts: ckpts,
		learning: deps.Watchdog.Loop("learner", "learn"), casting: deps.Watchdog.Loop("learner", "broadcast"),
		sending: make(chan struct{}, 1), interval: meter{},
	}, nil
}

// Run resumes from the newest checkpoint, or starts anew, and trains until ctx
// ends, which is no error. An update under way is given up then: with a large
// model it could take longer than there is until the process is killed.
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.wait()
	defer cancel()
	err := l.Start(ctx)
	if err == nil && !l.cfg.InPlace {
		l.ahead = prefetch(ctx, l.deps.Source)
	}
	for err == nil && ctx.Err() == nil {
		err = l.Step(ctx)
	}
	if err != nil && !errors.Is(err, ctx.Err()) {
		return err
	}
	return l.Finish()
}

// Step makes one update and whatever falls due after it. When ctx ends before
// the update is made, the batch is lost and the error is that of ctx: where each
// one counts, as in lockstep, the caller hands in a context that does not end.
func (l *Loop) Step(ctx context.Context) error {
	batch, err := l.next(ctx)
	l.learning.Do("update")
	if err != nil {
		return fmt.Errorf("learner: sample: %w", err)
	}
	result, err := l.deps.Algorithm.Train(ctx, batch)
	if err != nil {
		return fmt.Errorf("learner: update %d: %w", l.state.Updates+1, err)
	}
	l.count(batch, result)
	if !result.Skipped {
		l.refresh(ctx, result.Refresh)
	}
	if err := l.guard(ctx, result.Skipped); err != nil {
		return fmt.Errorf("learner: update %d: %w", l.state.Updates, err)
	}
	if !result.Skipped && l.due(l.cfg.PublishEvery) {
		l.learning.Do("publish")
		if err := l.publish(ctx); err != nil {
			return fmt.Errorf("learner: update %d: %w", l.state.Updates, err)
		}
	}
	if l.due(l.cfg.LogEvery) {
		l.record()
	}
	if !result.Skipped && l.checkpointDue() {
		l.learning.Do("checkpoint")
		if err := l.checkpoint(false); err != nil {
			l.log.Error("checkpoint could not be written", "updates", l.state.Updates, "error", err)
		}
	}
	if l.cfg.Lockstep {
		l.learning.Wait("actors")
	}
	return nil
}

// Start loads the newest valid checkpoint or, when there is none, publishes
// the initial parameters and writes the first one: so that actors have
// something to follow, the guard something to restore, and a folder that can
// not be written to is found out before any work is lost.
func (l *Loop) Start(ctx context.Context) error {
	l.learning.Do("start")
	now := l.deps.Now()
	l.checkpointedAt, l.recordedAt = now, now
	ckpt, err := l.ckpts.Latest()
	switch {
	case errors.Is(err, ErrNoCheckpoint):
		err = l.publish(ctx)
		if err == nil {
			err = l.checkpoint(false)
		}
	case err == nil:
		err = l.resume(ctx, ckpt)
	}
	if err != nil {
		return fmt.Errorf("learner: start: %w", err)
	}
	l.recorded = l.state
	return nil
}

// Finish records what is left of the log interval and writes the last
// checkpoint. In lockstep the interval is carried over in the checkpoint, for
// the resumed run to complete.
func (l *Loop) Finish() error {
	defer l.learning.End()
	l.learning.Do("checkpoint")
	if !l.cfg.Lockstep && l.state.Updates > l.recorded.Updates {
		l.record()
	}
	if l.skippedInRow > 0 {
		l.log.Warn("no last checkpoint amid non-finite updates", "in_a_row", l.skippedInRow)
		return nil
	}
	if err := l.checkpoint(true); err != nil {
		return fmt.Errorf("learner: last checkpoint: %w", err)
	}
	return nil
}

// Updates is the number of updates made over the whole run. It may be called
// from any goroutine.
func (l *Loop) Updates() int64 { return l.updates.Load() }

// Staleness counts the sequences replayed in this log interval and the one before
// by the age of the parameters that acted, in versions: element 0 has age 0,
// element i ages from 2^(i-1) on and below 2^i. It may be called from any
// goroutine.
func (l *Loop) Staleness() []uint64 { return l.ages.counts() }

// AllStaleness is Staleness since the process began, and the sum of all ages.
func (l *Loop) AllStaleness() (counts []uint64, sum uint64) { return l.ages.total() }

// Checkpointed returns when this process has last written a checkpoint, in milliseconds since 1970,
// or 0 before the first, which Start writes. It may be called from any goroutine.
func (l *Loop) Checkpointed() int64 { return l.saved.Load() }

func (l *Loop) resume(ctx context.Context, ckpt *Checkpoint) error {
	m := ckpt.Manifest
	if m.ConfigDigest != l.cfg.ConfigDigest {
		return fmt.Errorf("%s: %w: digest %.12s, these have %.12s", ckpt.Dir, ErrConfig, m.ConfigDigest, l.cfg.ConfigDigest)
	}
	if err := ckpt.Load(l.ckpts.parts...); err != nil {
		return err
	}
	l.state = m.Counters
	for name, mean := range m.Interval {
		l.interval[name] = mean
	}
	l.updates.Store(m.Updates)
	l.log.Info("resumed", "checkpoint", ckpt.Dir, "updates", m.Updates, "clean", m.Clean)
	if l.cfg.Lockstep {
		return nil // the actors have come back with the parameters they had
	}
	if !m.Clean {
		l.state.ParamVersion += versionJump
		l.state.VersionFloor = l.state.ParamVersion
	}
	// From here on, the checkpoint resumed from is no longer a clean end.
	if err := l.checkpoint(false); err != nil {
		return err
	}
	return l.publish(ctx)
}

// wait returns when nothing runs on the side any more; the context must have
// ended.
func (l *Loop) wait() {
	if l.ahead != nil {
		l.ahead.wait()
	}
	l.sending <- struct{}{}
	l.casting.End()
}

func (l *Loop) next(ctx context.Context) (*protocol.Batch, error) {
	l.learning.Wait("batch")
	start := l.deps.Now()
	batch := &l.batch
	var err error
	if l.ahead != nil {
		batch, err = l.ahead.next()
	} else {
		err = l.deps.Source.Sample(ctx, batch)
	}
	l.waited += l.deps.Now().Sub(start)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return batch, err
}

// count takes in what an update tells.
func (l *Loop) count(b *protocol.Batch, r Result) {
	l.state.Updates++
	l.state.ReplayedSteps += int64(b.Size) * int64(b.Length)
	l.updates.Store(l.state.Updates)
	for name, value := range r.Metrics {
		l.interval.add(name, value)
	}
	for _, version := range b.ParamVersion {
		// Steps of before a jump would count it as age; 0 is a random policy.
		if version != 0 && version >= l.state.VersionFloor && version <= l.state.ParamVersion {
			age := l.state.ParamVersion - version
			l.interval.add("learner/staleness", float64(age))
			l.ages.add(age)
		}
	}
}

// refresh writes contexts back. Where that fails they stay as old as they
// were, which costs little.
func (l *Loop) refresh(ctx context.Context, r *protocol.Refresh) {
	if r == nil || len(r.Refs) == 0 {
		return
	}
	if err := l.deps.Source.Refresh(ctx, r); err != nil && ctx.Err() == nil {
		l.log.Warn("recurrent contexts could not be written back", "rows", len(r.Refs), "error", err)
	}
}

// guard restores the last checkpoint after MaxSkipped skipped updates in a row.
func (l *Loop) guard(ctx context.Context, skipped bool) error {
	if !skipped {
		l.skippedInRow = 0
		return nil
	}
	l.state.Skipped++
	l.skippedInRow++
	if l.skippedInRow < l.cfg.MaxSkipped {
		return nil
	}
	if l.restoresInRow == maxRestores {
		return fmt.Errorf("%w: restored %d times", ErrDiverged, maxRestores)
	}
	ckpt, err := l.ckpts.Latest()
	if err != nil {
		return fmt.Errorf("%d non-finite updates in a row: %w", l.skippedInRow, err)
	}
	if err := ckpt.Load(l.ckpts.parts[0]); err != nil {
		return err
	}
	l.log.Error("updates were not finite: restored the last checkpoint", "in_a_row", l.skippedInRow,
		"checkpoint", ckpt.Dir, "updates_lost", l.state.Updates-ckpt.Manifest.Updates)
	l.state.Restores++
	l.restoresInRow++
	l.skippedInRow = 0
	return l.publish(ctx)
}

// publish sends a new version: in place where so asked, else on the side unless
// the one before is still going out, when the next that is due will do.
func (l *Loop) publish(ctx context.Context) error {
	select {
	case l.sending <- struct{}{}:
	default:
		return nil
	}
	if ctx.Err() != nil { // the version before was given up; this one would be as well
		<-l.sending
		return nil
	}
	blob, err := l.deps.Algorithm.Params(nil)
	if err != nil {
		<-l.sending
		return fmt.Errorf("acting parameters: %w", err)
	}
	l.state.ParamVersion++
	version := l.state.ParamVersion
	if l.cfg.Lockstep || l.cfg.InPlace {
		defer func() { <-l.sending }()
		if err := l.deps.Publisher.Publish(ctx, version, blob); err != nil && ctx.Err() == nil {
			return fmt.Errorf("publish parameters: %w", err)
		}
		return nil
	}
	go func() {
		l.casting.Do("broadcast")
		defer func() { l.casting.Wait("version"); <-l.sending }()
		if err := l.deps.Publisher.Publish(ctx, version, blob); err != nil && ctx.Err() == nil {
			l.log.Warn("parameters could not be published", "version", version, "error", err)
		}
	}()
	return nil
}

// due reports whether the present update is one of every n. It depends on
// nothing else, so that a resumed run keeps the schedule.
func (l *Loop) due(n int64) bool { return l.state.Updates%n == 0 }

func (l *Loop) checkpointDue() bool {
	return l.due(l.cfg.CheckpointEvery) ||
		!l.cfg.Lockstep && l.deps.Now().Sub(l.checkpointedAt) >= maxCheckpointAge
}

func (l *Loop) checkpoint(clean bool) error {
	now := l.deps.Now()
	m := Manifest{Counters: l.state, Clean: clean, ConfigDigest: l.cfg.ConfigDigest, Interval: l.interval}
	if !l.cfg.Lockstep {
		m.Created = now.UTC()
	}
	l.checkpointedAt = now
	ckpt, err := l.ckpts.Save(m)
	if err != nil {
		return err
	}
	l.restoresInRow = 0
	l.saved.Store(l.deps.Now().UnixMilli())
	if l.deps.Saved != nil {
		l.deps.Saved(ckpt)
	}
	l.log.Debug("checkpoint", "folder", ckpt.Dir, "updates", m.Updates, "seconds", l.deps.Now().Sub(now).Seconds())
	return nil
}

// record gives the interval's means, with totals and rates, to the Recorder.
func (l *Loop) record() {
	values := l.interval.flush()
	l.ages.turn()
	s := &l.state
	values["learner/updates"] = float64(s.Updates)
	values["learner/replayed_steps"] = float64(s.ReplayedSteps)
	values["learner/param_version"] = float64(s.ParamVersion)
	values["learner/skipped"] = float64(s.Skipped)
	values["learner/restores"] = float64(s.Restores)
	now := l.deps.Now()
	if seconds := now.Sub(l.recordedAt).Seconds(); seconds > 0 && !l.cfg.Lockstep {
		values["learner/updates_per_second"] = float64(s.Updates-l.recorded.Updates) / seconds
		values["learner/replayed_steps_per_second"] = float64(s.ReplayedSteps-l.recorded.ReplayedSteps) / seconds
		values["learner/wait_fraction"] = l.waited.Seconds() / seconds
	}
	l.recordedAt, l.recorded, l.waited = now, *s, 0
	if err := l.deps.Recorder.Record(s.Updates, values); err != nil {
		l.log.Error("metrics could not be recorded", "updates", s.Updates, "error", err)
	}
}
