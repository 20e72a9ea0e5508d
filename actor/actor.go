package actor

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

// Config is an actor's identity and bounds.
type Config struct {
	Run         string // see protocol.ValidName
	Name        string // of the actor in its chunks: never used before, see Incarnate, or resumed by Restore
	ChunkLength int    // steps of a chunk
	Stride      int    // steps from one context row to the next
	Spool       int    // largest number of chunks in memory

	// OnPolicy has a chunk acted with one version of the parameters, and Run act
	// one chunk in each environment with each version: it waits for the next.
	OnPolicy bool

	Watchdog *watchdog.Watchdog // told by Run of its progress; nil: nobody is
	Viewer   Viewer             // is shown the first environment's steps; may be nil
}

// Viewer is shown what an actor's first environment does, while somebody asks.
// Ask may be called from any goroutine, the others by the actor's alone.
type Viewer interface {
	Ask()
	// Wants says before a step whether it is to be seen, and whether the recurrent
	// context before it is wanted.
	Wants() (see, context bool)
	// See is given a step after the policy has acted: the observation, flags, action,
	// version of the parameters and, where it was wanted, the context. They are valid
	// during the call.
	See(obs []float32, flags uint8, action int, version uint64, context []float32)
}

const (
	maxChunkLength = 1<<16 - 1 // protocol's
	// spoolBytes bounds the spool where chunks are large: a fiftieth of the
	// memory of the machines that run such models.
	spoolBytes = 256 << 20
)

func (c Config) check() error {
	switch {
	case !protocol.ValidName(c.Run):
		return fmt.Errorf("run is %q: a name has 1 to %d of the characters A-Z a-z 0-9 _ -", c.Run, protocol.MaxName)
	case !protocol.ValidName(c.Name):
		return fmt.Errorf("name is %q: a name has 1 to %d of the characters A-Z a-z 0-9 _ -", c.Name, protocol.MaxName)
	case c.ChunkLength < 1 || c.ChunkLength > maxChunkLength:
		return fmt.Errorf("chunk_length is %d, 1 to %d is possible", c.ChunkLength, maxChunkLength)
	case c.Stride < 1:
		return fmt.Errorf("context_stride is %d, at least 1 is needed", c.Stride)
	}
	return nil
}

// Actor acts in its environments. Tick, Flush, State, Restore and Run belong to
// one goroutine; SetParams, SetFlow and Stats may be called from any.
type Actor struct {
	cfg     Config
	rollout *rollout
	spool   *spool
	sender  *sender
	log     hclog.Logger

	params   *params                // loaded; nil: none yet
	pending  atomic.Pointer[params] // for the next Tick
	newer    chan struct{}          // a token after parameters
	flow     atomic.Pointer[told]
	flowCome chan struct{} // a token after a flow message
	rejected atomic.Uint64 // parameter blobs

	mu     sync.Mutex // guards shown
	shown  totals     // as of the last Tick
	acting uint64     // parameter version, with shown
}

type params struct {
	version uint64
	blob    []byte
}

// New makes an actor with a stream for every trial; policy has a row for each,
// in the same order.
func New(cfg Config, trials []*env.Trial, policy Policy, publisher Publisher, log hclog.Logger) (*Actor, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("actor: %w", err)
	}
	if cfg.Spool < len(trials) {
		return nil, fmt.Errorf("actor: spool is %d chunks, at least %d are needed: one for each environment, all complete in one tick", cfg.Spool, len(trials))
	}
	r, err := newRollout(cfg, trials, policy)
	if err != nil {
		return nil, fmt.Errorf("actor: %w", err)
	}
	// Chunks are filled again once they are stored: in a steady state an actor
	// has one being filled and one being sent for each stream.
	spare := make(chan *protocol.Chunk, len(trials))
	r.spare = func() *protocol.Chunk {
		select {
		case c := <-spare:
			return c
		default:
			return nil
		}
	}
	a := &Actor{cfg: cfg, rollout: r, spool: newSpool(cfg.Spool, spoolBytes), log: log, flowCome: make(chan struct{}, 1), newer: make(chan struct{}, 1)}
	a.sender = &sender{spool: a.spool, publisher: publisher, log: log, watchdog: cfg.Watchdog, recycle: func(c *protocol.Chunk) {
		select {
		case spare <- c:
		default:
		}
	}}
	return a, nil
}

// Tick takes one step in every environment. It loads parameters that have come
// before (OnPolicy: if it begins new chunks), and puts complete chunks into the spool. Its errors are those of the
// environments, or of a policy that chose what is not allowed; they last.
func (a *Actor) Tick() error {
	if !a.cfg.OnPolicy || a.rollout.between() {
		a.load()
	}
	if err := a.rollout.tick(a.spool.add); err != nil {
		return fmt.Errorf("actor %s: %w", a.cfg.Name, err)
	}
	a.show()
	return nil
}

// SetParams leaves a parameter blob for the next Tick. Of several only the last
// is loaded. The blob is kept and must not be changed.
func (a *Actor) SetParams(version uint64, blob []byte) {
	a.pending.Store(&params{version, blob})
	select {
	case a.newer <- struct{}{}:
	default:
	}
}

// load swaps pending parameters in.
func (a *Actor) load() {
	p := a.pending.Swap(nil)
	if p == nil {
		return
	}
	if err := a.rollout.policy.Load(p.blob); err != nil {
		a.rejected.Add(1)
		a.log.Error("parameters are refused, acting on with those before", "version", p.version, "acting", a.rollout.version, "error", err)
		return
	}
	a.params, a.rollout.version = p, p.version
}

// Flush sends all complete chunks, in order, and waits until they are stored.
// It goes on trying until ctx ends.
func (a *Actor) Flush(ctx context.Context) error {
	before := a.sender.refused.Load()
	sending, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { a.sender.run(sending) })
	err := a.spool.drained(ctx)
	cancel()
	wg.Wait()
	if err != nil {
		left, _, _ := a.spool.level()
		return fmt.Errorf("actor %s: flush: %d chunks left: %w", a.cfg.Name, left, err)
	}
	if n := a.sender.refused.Load() - before; n > 0 {
		return fmt.Errorf("actor %s: flush: %d chunks could not be sent", a.cfg.Name, n)
	}
	return nil
}

// Stats is what an actor says of itself. Counters run since its start; Steps,
// Episodes and Chunks are taken up by Restore.
type Stats struct {
	Actor    string
	Steps    uint64 // environment steps, all streams
	Episodes uint64 // that ended
	Chunks   uint64 // assembled

	ParamVersion   uint64 // acting; 0: uniformly at random
	ParamsRejected uint64 // blobs that the policy refused

	Published uint64 // chunks stored by the bus
	Failed    uint64 // attempts at sending that will be repeated
	Refused   uint64 // chunks dropped because the bus can not carry them
	Dropped   uint64 // chunks dropped for want of room in the spool

	SpoolChunks, SpoolBytes int
	Held                    string // why the replay holds the environments; empty: it does not
}

// Stats returns a snapshot, as of the last Tick where environments are
// concerned.
func (a *Actor) Stats() Stats {
	a.mu.Lock()
	t, acting := a.shown, a.acting
	a.mu.Unlock()
	s := Stats{
		Actor: a.cfg.Name, Steps: t.Steps, Episodes: t.Episodes, Chunks: t.Chunks,
		ParamVersion: acting, ParamsRejected: a.rejected.Load(),
		Published: a.sender.published.Load(), Failed: a.sender.failed.Load(), Refused: a.sender.refused.Load(),
	}
	s.SpoolChunks, s.SpoolBytes, s.Dropped = a.spool.level()
	if f := a.flow.Load(); f != nil && f.flow.Hold {
		s.Held = f.flow.Reason
	}
	return s
}

func (a *Actor) show() {
	a.mu.Lock()
	a.shown, a.acting = a.rollout.totals, a.rollout.version
	a.mu.Unlock()
}
