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
	"github.com/nats-io/nats.go/jetstream"
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
		err := o.inFolder("ingest", func(dir string) error { return z.measure(ctx, o, s, size, dir, report) })
		if err != nil {
			return fmt.Errorf("chunks of %d bytes: %w", size, err)
		}
	}
	return nil
}

// measure compares the way of chunks through both disks with the same bytes
// over the same server without one, and with JetStream's part of it alone.
func (z ingestSizes) measure(ctx context.Context, o *Options, s steps, size int, dir string, report func(Result)) (err error) {
	server, err := startServer(dir)
	if err != nil {
		return err
	}
	defer server.Close()
	store, err := replay.Open(replay.Config{
		Dir: filepath.Join(dir, "replay"), Run: benchRun, Capacity: z.window, Mix: replay.Mix{Uniform: 1},
		Limiter: replay.LimiterConfig{Ratio: 1, MinSteps: 1, Budget: 1 << 30}, Batch: 1, Length: s.stride,
	}, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	n := max(1, int(float64(size)/s.rawBytes())/s.stride) * s.stride
	in, err := z.connect(ctx, server, s, n)
	if err != nil {
		return err
	}
	defer in.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	service := &replay.Service{Store: store, Bus: in.replay, Log: hclog.NewNullLogger()}
	group.Go(func() error { return service.Run(ctx) })
	var whole, stream, core []float64
	group.Go(func() error {
		defer stop()
		var err error
		whole, stream, core, err = in.turns(ctx, o.Rounds)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	for _, f := range []struct {
		name, limitKind string
		values, limits  []float64
	}{
		{"", "core_nats", whole, core},
		{"_stream", "core_nats", stream, core},
		{"_beside_stream", "bare_stream", whole, stream},
	} {
		r := compare(f.values, f.limits)
		r.Name, r.Unit, r.LimitKind = fmt.Sprintf("ingest/%dKB%s", size>>10, f.name), "MB/s", f.limitKind
		r.Config = fmt.Sprintf("%d chunks of %d steps, %d bytes, %d actors over TCP", in.count, n, len(in.message), z.actors)
		report(r)
	}
	return nil
}

// turns measures the three ways one after the other, for a round to warm up
// and so many that count.
func (in *ingest) turns(ctx context.Context, rounds int) (whole, stream, core []float64, err error) {
	for range rounds + 1 {
		for _, way := range []struct {
			measure func(context.Context) (float64, error)
			rates   *[]float64
		}{{in.chunks, &whole}, {in.stream, &stream}, {in.core, &core}} {
			rate, err := way.measure(ctx)
			if err != nil {
				return nil, nil, nil, err
			}
			*way.rates = append(*way.rates, rate)
		}
	}
	return whole[1:], stream[1:], core[1:], nil
}

// compare is the figure of some rounds' values and limits.
func compare(values, limits []float64) Result {
	ratios := make([]float64, len(values))
	for i, v := range values {
		ratios[i] = v / limits[i]
	}
	return Result{Value: median(values), Limit: median(limits), Ratio: median(ratios)}
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
	bare    jetstream.Consumer
	message []byte // a chunk, encoded
	count   int    // chunks in a round, a multiple of the actors
	sent    uint64 // rounds of messages to the bare stream

	acknowledged, received tally
	onTheWay               chan struct{} // a token for every plain message not yet received
}

const (
	// acks are where acknowledgements of chunks go: one means that its chunk is
	// safe on the replay's disk.
	acks = "$JS.ACK.TRAJ.>"
	// plainSubject is of messages that no stream takes.
	plainSubject = "bench"
	// bareStream is a work queue like that of the chunks, which the replay does
	// not read, and bareSubject what it takes.
	bareStream  = "BARE"
	bareSubject = "bare"
	// bareInFlight messages are published before the first is acknowledged,
	// as the bus does it, and barePull fetched at a time: as many as the bus
	// lets be unacknowledged, and faster than fewer.
	bareInFlight = 32
	barePull     = 256
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
	if in.bare, err = newBareStream(ctx, subscriber); err != nil {
		return in, fmt.Errorf("bare stream: %w", err)
	}
	if err := subscribe(subscriber, acks, func(*nats.Msg) { in.acknowledged.add(1) }); err != nil {
		return in, err
	}
	return in, subscribe(subscriber, plainSubject, func(*nats.Msg) {
		<-in.onTheWay
		in.received.add(1)
	})
}

func newBareStream(ctx context.Context, nc *nats.Conn) (jetstream.Consumer, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: bareStream, Subjects: []string{bareSubject}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, MaxBytes: 1 << 30,
	})
	if err != nil {
		return nil, err
	}
	return js.CreateConsumer(ctx, bareStream, jetstream.ConsumerConfig{
		Durable: "bench", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 10 * time.Minute, MaxAckPending: barePull,
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

// stream publishes a round's messages to the bare stream and waits until they
// are fetched and acknowledged.
func (in *ingest) stream(ctx context.Context) (float64, error) {
	in.sent++
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i := range in.actors {
		group.Go(func() error { return in.publishBare(ctx, i) })
	}
	group.Go(func() error { return in.takeBare(ctx) })
	err := group.Wait()
	return in.rate(start), err
}

// publishBare publishes an actor's share, under message ids as chunks are.
func (in *ingest) publishBare(ctx context.Context, actor int) error {
	js, err := jetstream.New(in.plain[actor], jetstream.WithPublishAsyncMaxPending(bareInFlight))
	if err != nil {
		return err
	}
	defer js.CleanupPublisher()
	futures := make([]jetstream.PubAckFuture, in.count/len(in.actors))
	for i := range futures {
		id := fmt.Sprintf("%d/%d/%d", actor, in.sent, i)
		futures[i], err = js.PublishAsync(bareSubject, in.message, jetstream.WithMsgID(id), jetstream.WithStallWait(time.Minute))
		if err != nil {
			return err
		}
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (in *ingest) takeBare(ctx context.Context) error {
	for left := in.count; left > 0 && ctx.Err() == nil; {
		batch, err := in.bare.Fetch(min(left, barePull), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		for msg := range batch.Messages() {
			if err := msg.Ack(); err != nil {
				return err
			}
			left--
		}
		if err := batch.Error(); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return in.plain[len(in.actors)].FlushTimeout(time.Minute) // the acknowledgements have come by then
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
