package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// ScaleActors is a process with many lightweight actors. Each has a connection and does on
// it what the process of an actor does: it follows parameters, flow and configuration, sends
// heartbeats and publishes chunks of the default size. What it does not have is an
// environment and a policy, so that a machine has room for a thousand; and it does not
// hold, so that the load is the one asked for.
type ScaleActors struct {
	URL   string
	First int // number of the first actor, part of its name
	Count int
}

// connecting is how many actors connect at once: a thousand would make a small machine's
// server answer some of them too late.
const connecting = 16

// ScaleReport is what the actors of a process have done since it started.
type ScaleReport struct {
	Connected    int                `json:"connected"`
	Acknowledged uint64             `json:"acknowledged"` // chunks
	Failed       uint64             `json:"failed"`       // attempts at publishing one
	Delay        float64            `json:"delay"`        // seconds from publishing to acknowledgement, all of those acknowledged
	Age          uint64             `json:"age"`          // versions that those were behind when they were acknowledged
	Flow         uint64             `json:"flow"`         // flow messages received
	ParamBytes   uint64             `json:"param_bytes"`  // received
	Versions     map[uint64]arrival `json:"versions"`     // of parameters
}

// arrival is how many actors have a version of the parameters, and when the last one got
// it, in ns since 1970.
type arrival struct {
	Count int   `json:"count"`
	Last  int64 `json:"last"`
}

// scaleActors is a ScaleActors at work.
type scaleActors struct {
	steps  steps
	sample *protocol.Chunk

	rate    atomic.Uint64 // bits of chunks a second that each actor publishes
	changed atomic.Pointer[chan struct{}]
	newest  atomic.Uint64 // version of the parameters that any actor has

	mu     sync.Mutex
	report ScaleReport
}

// Serve connects and does what is written to in, a command a line, until that or ctx ends:
//
//	load CHUNKS   each actor publishes so many chunks a second
//	report        writes a ScaleReport to out, as a line of JSON
//
// Once all are connected a first report is written.
func (c ScaleActors) Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	s, err := defaultSteps()
	if err != nil {
		return err
	}
	w := &scaleActors{steps: s, sample: s.newChunks("a", s.chunk).chunk, report: ScaleReport{Versions: map[uint64]arrival{}}}
	w.load(0)
	buses, err := c.connect(ctx)
	defer func() {
		for _, bus := range buses {
			if bus != nil {
				bus.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	w.report.Connected = len(buses)
	ctx, stop := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	for i, bus := range buses {
		w.start(ctx, group, bus, c.name(i))
	}
	err = w.obey(ctx, in, out)
	stop()
	return errors.Join(err, group.Wait())
}

func (c ScaleActors) name(i int) string { return fmt.Sprintf("a%d", c.First+i) }

func (c ScaleActors) connect(ctx context.Context) ([]*protocol.Bus, error) {
	buses := make([]*protocol.Bus, c.Count)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(connecting)
	for i := range buses {
		group.Go(func() (err error) {
			buses[i], err = protocol.Connect(ctx, protocol.BusConfig{
				URL: c.URL, Run: benchRun, Role: protocol.RoleActor, Name: c.name(i),
			}, hclog.NewNullLogger())
			return err
		})
	}
	return buses, group.Wait()
}

// start sets going what an actor does.
func (w *scaleActors) start(ctx context.Context, group *errgroup.Group, bus *protocol.Bus, name string) {
	keep := func(err error) error {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var version atomic.Uint64
	group.Go(func() error {
		return keep(bus.FollowParams(ctx, func(v uint64, blob []byte) { version.Store(v); w.received(v, len(blob)) }))
	})
	group.Go(func() error {
		return keep(bus.FollowFlow(ctx, func(protocol.Flow) { w.mu.Lock(); w.report.Flow++; w.mu.Unlock() }))
	})
	group.Go(func() error {
		document, err := bus.GetConfig(ctx)
		if err == nil {
			if err = bus.AwaitConfig(ctx, document); err == nil {
				err = errors.New("the run's configuration has changed")
			}
		}
		return keep(err)
	})
	group.Go(func() error {
		return keep(bus.Heartbeat(ctx, func(s *protocol.Status) {
			s.Actor = &protocol.ActorStatus{Actors: 1, Environments: w.steps.envs, ParamVersion: version.Load(), Names: []string{name}}
		}))
	})
	group.Go(func() error { return keep(w.publish(ctx, bus, name, &version)) })
}

func (w *scaleActors) received(version uint64, bytes int) {
	now := time.Now().UnixNano()
	for old := w.newest.Load(); version > old && !w.newest.CompareAndSwap(old, version); old = w.newest.Load() {
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.report.Versions[version]
	w.report.Versions[version] = arrival{a.Count + 1, max(a.Last, now)}
	w.report.ParamBytes += uint64(bytes)
}

// load sets the chunks a second of each actor.
func (w *scaleActors) load(rate float64) {
	w.rate.Store(math.Float64bits(rate))
	next := make(chan struct{})
	if before := w.changed.Swap(&next); before != nil {
		close(*before)
	}
}

// publish sends an actor's chunks, evenly over time. When the bus is slower than that, the
// ones left out are not made up for. A chunk has the parameters that its actor had when it
// could have begun to fill it.
func (w *scaleActors) publish(ctx context.Context, bus *protocol.Bus, name string, version *atomic.Uint64) error {
	own := *w.sample
	own.Actor = name
	c := &chunks{chunk: &own, envs: w.steps.envs}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed, rate := *w.changed.Load(), math.Float64frombits(w.rate.Load())
		var due time.Time
		if rate > 0 {
			due = time.Now().Add(time.Duration(rand.Float64() / rate * float64(time.Second)))
		}
		for again := true; again; {
			acted := version.Load()
			if rate > 0 {
				timer.Reset(time.Until(due))
			} else {
				timer.Stop()
			}
			select {
			case <-timer.C:
				if err := w.send(ctx, bus, c.next(), acted); err != nil {
					return err
				}
				due = later(due.Add(time.Duration(float64(time.Second)/rate)), time.Now())
			case <-changed:
				again = false
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *scaleActors) send(ctx context.Context, bus *protocol.Bus, chunk *protocol.Chunk, version uint64) error {
	chunk.ParamVersion = version
	sent := time.Now()
	err := bus.PublishChunk(ctx, chunk, func(_ uint64, err error) { w.settle(version, time.Since(sent), err) })
	if err != nil && ctx.Err() == nil {
		w.settle(version, 0, err)
	}
	return ctx.Err()
}

func (w *scaleActors) settle(version uint64, took time.Duration, err error) {
	newest := w.newest.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.report.Failed++
		return
	}
	w.report.Acknowledged++
	w.report.Delay += took.Seconds()
	w.report.Age += newest - min(version, newest)
}

// obey follows the commands.
func (w *scaleActors) obey(ctx context.Context, in io.Reader, out io.Writer) error {
	if err := w.write(out); err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			if err := w.do(line, out); err != nil {
				return err
			}
		}
	}
}

func (w *scaleActors) do(line string, out io.Writer) error {
	what, value, _ := strings.Cut(line, " ")
	switch what {
	case "report":
		return w.write(out)
	case "load":
		rate, err := strconv.ParseFloat(value, 64)
		if err != nil || !(rate >= 0) || math.IsInf(rate, 0) {
			return fmt.Errorf("load is %q: a number of chunks a second", value)
		}
		w.load(rate)
		return nil
	default:
		return fmt.Errorf("unknown command %q: load CHUNKS or report", line)
	}
}

func (w *scaleActors) write(out io.Writer) error {
	w.mu.Lock()
	text, err := json.Marshal(w.report)
	w.mu.Unlock()
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", text)
	}
	return err
}
