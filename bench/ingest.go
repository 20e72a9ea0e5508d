package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

// ingestSizes say what actors send to a replay.
type ingestSizes struct {
	chunks []int // bytes of a chunk, about
	bytes  int   // of all that is sent in a round, about
	actors int   // with a connection each
	window int   // steps of the replay
}

func runIngest(ctx context.Context, o *Options, report func(Result)) error {
	return ingestSizes{
		chunks: []int{64 << 10, 256 << 10}, bytes: 128 << 20, actors: 2,
		window: int(protocol.DefaultConfig().Replay.Capacity),
	}.run(ctx, o, report)
}

func (z ingestSizes) run(ctx context.Context, o *Options, report func(Result)) error {
	s, err := defaultSteps()
	if err != nil {
		return err
	}
	for _, size := range z.chunks {
		err := o.inFolder("ingest", func(dir string) error {
			r, err := z.measure(ctx, o, s, size, dir)
			if err == nil {
				report(r)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("chunks of %d bytes: %w", size, err)
		}
	}
	return nil
}

// measure compares the way of chunks through both disks with the same bytes
// over the same server without one.
func (z ingestSizes) measure(ctx context.Context, o *Options, s steps, size int, dir string) (r Result, err error) {
	server, err := startServer(dir)
	if err != nil {
		return r, err
	}
	defer server.Close()
	store, err := replay.Open(replay.Config{
		Dir: filepath.Join(dir, "replay"), Run: benchRun, Capacity: z.window, Mix: replay.Mix{Uniform: 1},
		Limiter: replay.LimiterConfig{Ratio: 1, MinSteps: 1, Budget: 1 << 30}, Batch: 1, Length: s.stride,
	}, hclog.NewNullLogger())
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	n := max(1, int(float64(size)/s.rawBytes())/s.stride) * s.stride
	in, err := z.connect(ctx, server, s, n)
	if err != nil {
		return r, err
	}
	defer in.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	service := &replay.Service{Store: store, Bus: in.replay, Log: hclog.NewNullLogger()}
	group.Go(func() error { return service.Run(ctx) })
	group.Go(func() error {
		defer stop()
		var err error
		r, err = o.rounds(ctx,
			func() (float64, error) { return in.chunks(ctx) },
			func() (float64, error) { return in.core(ctx) })
		return err
	})
	err = group.Wait()
	r.Name, r.Unit, r.LimitKind = fmt.Sprintf("ingest/%dKB", size>>10), "MB/s", "core_nats"
	r.Config = fmt.Sprintf("%d chunks of %d steps, %d bytes, %d actors over TCP", in.count, n, len(in.message), z.actors)
	return r, err
}

// startServer starts a server that connections over TCP reach, as those of
// processes of their own would.
func startServer(dir string) (*protocol.Server, error) {
	return protocol.StartServer(protocol.ServerConfig{
		StoreDir: filepath.Join(dir, "nats"), Listen: "127.0.0.1:0",
	}, hclog.NewNullLogger())
}

func connect(ctx context.Context, server *protocol.Server, role protocol.Role, name string) (*protocol.Bus, error) {
	return protocol.Connect(ctx, protocol.BusConfig{
		URL: server.URL(), Run: benchRun, Role: role, Name: name,
		AckWait: 10 * time.Minute, // nothing is lost, and what is slow shall not be sent twice
	}, hclog.NewNullLogger())
}

// ingest is the connections of a measurement and what goes over them.
type ingest struct {
	replay  *protocol.Bus
	actors  []*protocol.Bus
	made    []*chunks // by actor
	plain   []*nats.Conn
	message []byte // a chunk, encoded
	count   int    // chunks in a round, a multiple of the actors

	acknowledged, received tally
	onTheWay               chan struct{} // a token for every plain message not yet received
}

const (
	// acks are where acknowledgements of chunks go: one means that its chunk is
	// safe on the replay's disk.
	acks = "$JS.ACK.TRAJ.>"
	// plainSubject is of messages that no stream takes.
	plainSubject = "bench"
	// plainWindow bounds the bytes on their way to a subscriber, as a server
	// cuts one off that is 64 MB behind.
	plainWindow = 16 << 20
)

// connect makes the connections: a bus for each actor, one for the replay, and
// as many plain ones.
func (z ingestSizes) connect(ctx context.Context, server *protocol.Server, s steps, n int) (in *ingest, err error) {
	in = &ingest{}
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	if in.replay, err = connect(ctx, server, protocol.RoleReplay, "replay"); err != nil {
		return in, err
	}
	for i := range z.actors {
		name := fmt.Sprintf("a%d", i)
		bus, err := connect(ctx, server, protocol.RoleActor, name)
		if err != nil {
			return in, err
		}
		in.actors, in.made = append(in.actors, bus), append(in.made, s.newChunks(name, n))
	}
	if in.message, err = in.made[0].chunk.AppendTo(nil); err != nil {
		return in, err
	}
	in.count = max(1, z.bytes/len(in.message)/z.actors) * z.actors
	in.onTheWay = make(chan struct{}, max(1, plainWindow/len(in.message)))
	for range z.actors + 1 {
		nc, err := nats.Connect(server.URL())
		if err != nil {
			return in, fmt.Errorf("plain connection: %w", err)
		}
		in.plain = append(in.plain, nc)
	}
	subscriber := in.plain[z.actors]
	if err := subscribe(subscriber, acks, func(*nats.Msg) { in.acknowledged.add(1) }); err != nil {
		return in, err
	}
	return in, subscribe(subscriber, plainSubject, func(*nats.Msg) {
		<-in.onTheWay
		in.received.add(1)
	})
}

// subscribe hears all messages on a subject, however far it is behind, from
// when it returns.
func subscribe(nc *nats.Conn, subject string, hear func(*nats.Msg)) error {
	sub, err := nc.Subscribe(subject, hear)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return nil
}

func (in *ingest) close() {
	for _, nc := range in.plain {
		nc.Close()
	}
	for _, bus := range in.actors {
		bus.Close()
	}
	if in.replay != nil {
		in.replay.Close()
	}
}

// rate is the MB a second of a round that began at start.
func (in *ingest) rate(start time.Time) float64 {
	return float64(in.count*len(in.message)) / 1e6 / time.Since(start).Seconds()
}

// chunks encodes and publishes a round's chunks and waits until the replay has
// acknowledged them all.
func (in *ingest) chunks(ctx context.Context) (float64, error) {
	sending, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	start := time.Now()
	done := in.acknowledged.expect(in.count)
	group, ctx := errgroup.WithContext(sending)
	for i, bus := range in.actors {
		group.Go(func() error {
			for range in.count / len(in.actors) {
				err := bus.PublishChunk(ctx, in.made[i].next(), func(_ uint64, err error) {
					if err != nil {
						fail(err)
					}
				})
				if err != nil {
					return err
				}
			}
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}
	if err := group.Wait(); err != nil {
		// A chunk that was not stored explains why the others were given up.
		return 0, cmp.Or(context.Cause(sending), err)
	}
	return in.rate(start), nil
}

// core publishes a round's messages and waits until they are received.
func (in *ingest) core(ctx context.Context) (float64, error) {
	start := time.Now()
	done := in.received.expect(in.count)
	group, ctx := errgroup.WithContext(ctx)
	for _, nc := range in.plain[:len(in.actors)] {
		group.Go(func() error {
			for range in.count / len(in.actors) {
				select {
				case in.onTheWay <- struct{}{}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				if err := nc.Publish(plainSubject, in.message); err != nil {
					return err
				}
			}
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}
	err := group.Wait()
	return in.rate(start), err
}

// tally tells when so many things have happened.
type tally struct {
	mu   sync.Mutex
	left int
	done chan struct{}
}

// expect begins to count.
func (t *tally) expect(n int) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.done = n, make(chan struct{})
	return t.done
}

func (t *tally) add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left <= 0 {
		return
	}
	if t.left -= n; t.left <= 0 {
		close(t.done)
	}
}
