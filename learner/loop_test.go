package learner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is all that a loop works with, scripted: a source that counts its
// batches, an algorithm whose only parameter sums what it is given, and a
// diary of what happened.
type world struct {
	mu     sync.Mutex
	diary  []string
	values []map[string]float64 // recorded
	blobs  map[uint64]string    // published, by version

	sampled int64
	weight  float64
	steps   int64

	bad      func(step int64) bool // whether the step is not finite
	training func()                // called when an update begins
	trainErr error
	saveErr  error
	publish  func(ctx context.Context) error
	refresh  error
	now      time.Time
	dir      string
}

func newWorld(t *testing.T) *world {
	return &world{dir: t.TempDir(), blobs: map[uint64]string{}, now: time.Unix(1000, 0)}
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.diary = append(w.diary, fmt.Sprintf(format, args...))
}

// told returns the diary's lines that begin with one of the words, and clears
// it.
func (w *world) told(words ...string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, line := range w.diary {
		if slices.Contains(words, strings.Fields(line)[0]) {
			lines = append(lines, line)
		}
	}
	w.diary = nil
	return strings.Join(lines, ", ")
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(time.Millisecond)
	return w.now
}

func (w *world) Sample(ctx context.Context, dst *protocol.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sampled++
	dst.Resize(2, 4, 1, 1, 1)
	dst.Obs[0] = float32(w.sampled)
	dst.ParamVersion[0], dst.ParamVersion[1] = 0, 1
	dst.Refs = append(dst.Refs, protocol.Ref{Slot: uint32(w.sampled)})
	return nil
}

func (w *world) Refresh(_ context.Context, r *protocol.Refresh) error {
	w.note("refresh %d", r.Refs[0].Slot)
	return w.refresh
}

func (w *world) Train(ctx context.Context, b *protocol.Batch) (Result, error) {
	if w.training != nil {
		w.training()
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	w.steps++
	if w.trainErr != nil {
		return Result{}, w.trainErr
	}
	if w.bad != nil && w.bad(w.steps) {
		w.note("skip %d", w.steps)
		return Result{Skipped: true, Metrics: map[string]float64{"loss": math.NaN()}}, nil
	}
	w.note("train %v", b.Obs[0])
	w.weight = 0.9*w.weight + float64(b.Obs[0])
	return Result{
		Metrics: map[string]float64{"loss": 1 / w.weight},
		Refresh: &protocol.Refresh{Refs: b.Refs, Context: []float32{0}},
	}, nil
}

func (w *world) Params(dst []byte) ([]byte, error) { return fmt.Append(dst, w.weight), nil }

func (w *world) Save(out io.Writer) error {
	if w.saveErr != nil {
		return w.saveErr
	}
	w.note("save %v", w.weight)
	return json.NewEncoder(out).Encode(w.weight)
}

func (w *world) Load(r io.Reader) error {
	err := json.NewDecoder(r).Decode(&w.weight)
	w.note("load %v", w.weight)
	return err
}

func (w *world) Publish(ctx context.Context, version uint64, blob []byte) error {
	if w.publish != nil {
		if err := w.publish(ctx); err != nil {
			return err
		}
	}
	w.note("publish %d", version)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, twice := w.blobs[version]; twice {
		return errors.New("a version was used twice")
	}
	w.blobs[version] = string(blob)
	return nil
}

func (w *world) Record(step int64, values map[string]float64) error {
	w.note("record %d", step)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values = append(w.values, values)
	return nil
}

// source is a part that saves where the source is, as lockstep needs.
func (w *world) source() Part {
	return Part{
		Name: "source.json",
		Save: func(out io.Writer) error { return json.NewEncoder(out).Encode(w.sampled) },
		Load: func(r io.Reader) error { return json.NewDecoder(r).Decode(&w.sampled) },
	}
}

func (w *world) loop(t *testing.T, cfg Config) *Loop {
	t.Helper()
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	set(&cfg.PublishEvery, 1000)
	set(&cfg.CheckpointEvery, 1000)
	set(&cfg.LogEvery, 1000)
	if cfg.MaxSkipped == 0 {
		cfg.MaxSkipped = 3
	}
	cfg.KeepCheckpoints = 2
	deps := Deps{
		Source: w, Algorithm: w, Publisher: w, Recorder: w, Checkpoints: w.dir, Now: w.clock, Log: hclog.NewNullLogger(),
	}
	if cfg.Lockstep {
		deps.Extra = []Part{w.source()}
	}
	l, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func steps(t *testing.T, l *Loop, n int) {
	t.Helper()
	for range n {
		if err := l.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func start(t *testing.T, l *Loop) {
	t.Helper()
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What happens in lockstep, in order.
func TestScheduleTranscript(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{Lockstep: true, PublishEvery: 2, LogEvery: 3, CheckpointEvery: 4})
	start(t, l)
	steps(t, l, 4)
	if err := l.Finish(); err != nil {
		t.Fatal(err)
	}
	want := "publish 1, save 0, " +
		"train 1, refresh 1, " +
		"train 2, refresh 2, publish 2, " +
		"train 3, refresh 3, record 3, " +
		"train 4, refresh 4, publish 3, save 9.049, " +
		"save 9.049"
	if got := w.told("train", "refresh", "publish", "record", "save"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if w.blobs[1] != "0" || w.blobs[3] != "9.049" {
		t.Errorf("published %v: not the parameters of the time", w.blobs)
	}
	// Losses 1, 1/2.9 and 1/5.61; versions 1, 1 and 2 against the batches' 0 (random) and 1.
	wantValues := map[string]float64{
		"loss": (1 + 1/2.9 + 1/(0.9*2.9+3)) / 3, "learner/staleness": 1. / 3, "learner/updates": 3,
		"learner/replayed_steps": 24, "learner/param_version": 2, "learner/skipped": 0, "learner/restores": 0,
	}
	if !reflect.DeepEqual(w.values, []map[string]float64{wantValues}) {
		t.Errorf("recorded %v, want %v", w.values, wantValues)
	}
}

// A lockstep run interrupted anywhere is the run that was not.
func TestLockstepResumesExactly(t *testing.T) {
	cfg := Config{Lockstep: true, PublishEvery: 2, LogEvery: 3, CheckpointEvery: 10}
	whole := newWorld(t)
	l := whole.loop(t, cfg)
	start(t, l)
	steps(t, l, 20)
	want := whole.told("train", "publish", "record")
	for _, cut := range []int{0, 1, 5, 10, 12} {
		w := newWorld(t)
		l := w.loop(t, cfg)
		start(t, l)
		steps(t, l, cut)
		if err := l.Finish(); err != nil {
			t.Fatal(err)
		}
		w.weight, w.sampled = -1, -1
		l = w.loop(t, cfg)
		start(t, l)
		steps(t, l, 20-cut)
		if got := w.told("train", "publish", "record"); got != want {
			t.Fatalf("cut at %d:\n%s, want\n%s", cut, got, want)
		}
		if w.weight != whole.weight || !reflect.DeepEqual(w.values, whole.values) || !reflect.DeepEqual(w.blobs, whole.blobs) {
			t.Fatalf("cut at %d: weight %v, want %v; recorded %v, want %v", cut, w.weight, whole.weight, w.values, whole.values)
		}
		if l.Updates() != 20 {
			t.Fatalf("cut at %d: %d updates", cut, l.Updates())
		}
	}
}

// quiet waits until no version is going out.
func quiet(l *Loop) {
	l.sending <- struct{}{}
	<-l.sending
}

// No version is ever used twice, through clean ends, crashes, and crashes
// before a checkpoint of one's own.
func TestVersionsGrowOverRestarts(t *testing.T) {
	w := newWorld(t)
	for _, run := range []struct {
		finish bool
		want   uint64 // the first version published
	}{{true, 1}, {false, 3}, {false, 3 + versionJump}, {true, 3 + 2*versionJump}, {true, 5 + 2*versionJump}} {
		l := w.loop(t, Config{PublishEvery: 1})
		start(t, l)
		quiet(l)
		steps(t, l, 1)
		quiet(l)
		if got, want := w.told("publish"), fmt.Sprintf("publish %d, publish %d", run.want, run.want+1); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if run.finish {
			if err := l.Finish(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Steps acted before a jump do not make the staleness.
func TestStalenessSkipsJumps(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{LogEvery: 1})
	start(t, l)
	l = w.loop(t, Config{LogEvery: 1})
	start(t, l)
	steps(t, l, 1)
	quiet(l)
	if got, ok := w.values[0]["learner/staleness"]; ok {
		t.Errorf("staleness is %v for versions 0 and 1 after a crash", got)
	}
}

func TestRatesAreMeasured(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{LogEvery: 10})
	start(t, l)
	steps(t, l, 10)
	quiet(l)
	v := w.values[0]
	perSecond := v["learner/updates_per_second"]
	if perSecond <= 0 || math.Abs(v["learner/replayed_steps_per_second"]/perSecond-8) > 1e-9 {
		t.Errorf("%v updates and %v steps a second, want 8 steps an update", perSecond, v["learner/replayed_steps_per_second"])
	}
	if wait := v["learner/wait_fraction"]; wait <= 0 || wait > 1 {
		t.Errorf("waited for %v of the time", wait)
	}
}

func TestGuardRestoresTheLastCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.bad = func(step int64) bool { return step == 4 || step >= 7 && step <= 9 }
	l := w.loop(t, Config{CheckpointEvery: 2, PublishEvery: 100, LogEvery: 10})
	start(t, l)
	quiet(l)
	steps(t, l, 10)
	quiet(l)
	want := "save 0, train 1, train 2, save 2.9, train 3, skip 4, train 5, train 6, save 15.0441, " +
		"skip 7, skip 8, skip 9, load 15.0441, train 10, record 10, save 23.53969"
	if got := w.told("train", "skip", "save", "load", "record"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if v := w.values[0]; v["learner/skipped"] != 4 || v["learner/restores"] != 1 || v["learner/param_version"] != 2 {
		t.Errorf("recorded %v, want 4 skipped, 1 restored and published", v)
	}
}

func TestGuardGivesUp(t *testing.T) {
	w := newWorld(t)
	w.bad = func(step int64) bool { return step > 2 }
	l := w.loop(t, Config{CheckpointEvery: 1})
	err := l.Run(t.Context())
	if !errors.Is(err, ErrDiverged) {
		t.Fatalf("error is %v", err)
	}
	if want := int64(2 + 3*(maxRestores+1)); w.steps != want {
		t.Errorf("gave up after %d updates, want %d", w.steps, want)
	}
	if latest, err := Latest(w.dir, hclog.NewNullLogger()); err != nil || latest.Manifest.Updates != 2 {
		t.Errorf("the newest checkpoint is %+v (%v), want that of the last good update", latest, err)
	}
}

// Run samples ahead, ends without an error with its context, and resumes.
func TestRunEndsAndResumes(t *testing.T) {
	w := newWorld(t)
	for _, want := range []int64{50, 100} {
		ctx, cancel := context.WithCancel(t.Context())
		w.bad = func(step int64) bool {
			if step == want {
				cancel()
			}
			return false
		}
		l := w.loop(t, Config{PublishEvery: 1, LogEvery: 20, CheckpointEvery: 40})
		if err := l.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if l.Updates() != want {
			t.Errorf("%d updates, want %d", l.Updates(), want)
		}
		latest, err := Latest(w.dir, hclog.NewNullLogger())
		if err != nil || latest.Manifest.Updates != want || !latest.Manifest.Clean {
			t.Errorf("it left %+v (%v), want a clean checkpoint of update %d", latest, err, want)
		}
		if last := w.values[len(w.values)-1]["learner/updates"]; last != float64(want) {
			t.Errorf("the last values are of update %v, want %d", last, want)
		}
	}
}

// An update that the end of the context comes into is given up: the last
// checkpoint is that of the update before.
func TestRunGivesUpTheUpdateUnderWay(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.training = func() {
		if w.steps == 5 {
			cancel()
		}
	}
	l := w.loop(t, Config{})
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	latest, err := Latest(w.dir, hclog.NewNullLogger())
	if err != nil || latest.Manifest.Updates != 5 || !latest.Manifest.Clean || w.steps != 5 {
		t.Errorf("after %d updates it left %+v (%v), want a clean checkpoint of update 5", w.steps, latest, err)
	}
}

func TestRunReportsErrorsAndKeepsTheCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.trainErr = errors.New("shape")
	if err := w.loop(t, Config{}).Run(t.Context()); !errors.Is(err, w.trainErr) {
		t.Errorf("error is %v", err)
	}
	if latest, err := Latest(w.dir, hclog.NewNullLogger()); err != nil || latest.Manifest.Clean {
		t.Errorf("after an error the newest checkpoint is %+v (%v), want the first", latest, err)
	}
}

// Training goes on while a version is going out, however long that takes.
func TestSlowPublishingHoldsNothingUp(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.publish = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	w.bad = func(step int64) bool {
		if step == 100 {
			cancel()
		}
		return false
	}
	l := w.loop(t, Config{PublishEvery: 1})
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if l.state.ParamVersion != 1 {
		t.Errorf("%d versions were begun, want 1", l.state.ParamVersion)
	}
}

// What does not end a run: a disk that is full for a while, contexts that can
// not be written back.
func TestPassingErrors(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{Lockstep: true, CheckpointEvery: 1})
	start(t, l)
	w.saveErr, w.refresh = errors.New("disk full"), errors.New("gone")
	steps(t, l, 3)
	if err := l.Finish(); !errors.Is(err, w.saveErr) {
		t.Errorf("the last checkpoint failed and the error is %v", err)
	}
	w.saveErr = nil
	steps(t, l, 1)
	if latest, err := Latest(w.dir, hclog.NewNullLogger()); err != nil || latest.Manifest.Updates != 4 {
		t.Errorf("the newest checkpoint is %+v (%v), want update 4", latest, err)
	}
}

// A slow run is checkpointed by the clock, too.
func TestCheckpointByAge(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{})
	start(t, l)
	steps(t, l, 1)
	w.now = w.now.Add(maxCheckpointAge)
	steps(t, l, 2)
	quiet(l)
	if got, want := w.told("train", "save"), "save 0, train 1, train 2, save 2.9, train 3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOtherSettingsAreRefused(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{ConfigDigest: "one"})
	start(t, l)
	quiet(l)
	if err := w.loop(t, Config{ConfigDigest: "two"}).Start(t.Context()); !errors.Is(err, ErrConfig) {
		t.Errorf("error is %v", err)
	}
	if _, err := New(Config{PublishEvery: 1, CheckpointEvery: 1, LogEvery: 1, KeepCheckpoints: 0, MaxSkipped: 1}, Deps{}); err == nil || !strings.Contains(err.Error(), "keep_checkpoints") {
		t.Errorf("keeping no checkpoint gives %v", err)
	}
}

func TestDamagedCheckpointsDoNotStartAnew(t *testing.T) {
	w := newWorld(t)
	l := w.loop(t, Config{})
	start(t, l)
	quiet(l)
	write(t, folder(w.dir, 1)+"/"+StateFile, nil)
	if err := w.loop(t, Config{}).Run(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("error is %v", err)
	}
}

// A clock that jumps, either way, changes neither what is trained and published nor
// that checkpoints are written by the number of updates.
func TestClockJumps(t *testing.T) {
	transcript := func(jump time.Duration) string {
		w := newWorld(t)
		l := w.loop(t, Config{CheckpointEvery: 2})
		start(t, l)
		for range 3 {
			steps(t, l, 2)
			w.mu.Lock()
			w.now = w.now.Add(jump)
			w.mu.Unlock()
		}
		steps(t, l, 2)
		quiet(l)
		if err := l.Finish(); err != nil {
			t.Fatal(err)
		}
		if ckpt, err := Latest(w.dir, hclog.NewNullLogger()); err != nil || ckpt.Manifest.Updates != 8 {
			t.Errorf("after jumps of %v: the newest checkpoint is %+v, %v", jump, ckpt, err)
		}
		return w.told("train", "publish")
	}
	want := transcript(0)
	for _, jump := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		if got := transcript(jump); got != want {
			t.Errorf("clock jumps by %v: got %s, want %s", jump, got, want)
		}
	}
}
