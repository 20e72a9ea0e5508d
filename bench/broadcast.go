package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// broadcastSizes say what a learner sends to how many.
type broadcastSizes struct {
	values    int // numbers in the parameters
	followers int
	acting    actingSizes
}

func runBroadcast(ctx context.Context, o *Options, report func(Result)) error {
	return broadcastSizes{values: 20_000_000, followers: 8, acting: actingSizes{rows: 16, steps: 500}}.run(ctx, o, report)
}

func (z broadcastSizes) run(ctx context.Context, o *Options, report func(Result)) error {
	var sent [2]int // bytes
	for i, encoding := range []struct {
		name  string
		dtype model.DType
	}{{"float32", model.F32}, {"bfloat16", model.BF16}} {
		blob, err := z.blob(encoding.dtype)
		if err != nil {
			return err
		}
		sent[i] = len(blob)
		err = o.inFolder("broadcast", func(dir string) error {
			r, err := z.measure(ctx, o, blob, dir)
			if err == nil {
				r.Name = "broadcast/" + encoding.name
				report(r)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", encoding.name, err)
		}
	}
	report(Result{
		Name: "broadcast/bfloat16_bytes", Config: fmt.Sprintf("%d numbers", z.values), Value: float64(sent[1]), Unit: "B",
		Limit: float64(sent[0]), LimitKind: "float32", Ratio: float64(sent[1]) / float64(sent[0]),
	})
	if err := z.acting.run(ctx, o, report); err != nil {
		return fmt.Errorf("acting: %w", err)
	}
	return nil
}

// blob is parameters of so many random numbers.
func (z broadcastSizes) blob(dtype model.DType) ([]byte, error) {
	t := model.Tensor{Name: "parameters", Shape: []int{z.values}, Data: make([]float32, z.values)}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range t.Data {
		t.Data[i] = r.Float32()
	}
	var b bytes.Buffer
	f := model.File{Tensors: []model.Tensor{t}, DType: dtype}
	_, err := f.WriteTo(&b)
	return b.Bytes(), err
}

// measure compares broadcasts, until every follower has the whole of it with
// the right digest, with the bare messages over the same server.
func (z broadcastSizes) measure(ctx context.Context, o *Options, blob []byte, dir string) (r Result, err error) {
	server, err := startServer(dir)
	if err != nil {
		return r, err
	}
	defer server.Close()
	learner, err := connect(ctx, server, protocol.RoleLearner, "learner")
	if err != nil {
		return r, err
	}
	defer learner.Close()
	lease, err := learner.TakeLease(ctx, false)
	if err != nil {
		return r, err
	}
	sender, err := lease.NewBroadcaster()
	if err != nil {
		return r, err
	}
	b := &broadcast{sender: sender, followers: z.followers, blob: blob}
	b.plain, err = newPlainBroadcast(server.URL(), z.followers)
	if err != nil {
		return r, err
	}
	defer b.plain.close()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for i := range z.followers {
		group.Go(func() error { return b.follow(ctx, server, fmt.Sprintf("a%d", i)) })
	}
	group.Go(func() error {
		defer stop()
		// Nobody has heard of followers whose first fetch is under way: until
		// each has the first version, a broadcast would be repaired by fetching.
		if err := b.publish(ctx, []byte{1}); err != nil {
			return err
		}
		var err error
		r, err = o.rounds(ctx, func() (float64, error) {
			start := time.Now()
			err := b.publish(ctx, blob)
			return time.Since(start).Seconds(), err
		}, func() (float64, error) {
			start := time.Now()
			err := b.plain.publish(ctx, blob)
			return time.Since(start).Seconds(), err
		})
		return err
	})
	if err := group.Wait(); err != nil {
		return r, err
	}
	r.Unit, r.LimitKind = "s", "paced_core_nats"
	r.Config = fmt.Sprintf("%d bytes to %d subscribers over TCP", len(blob), z.followers)
	return r, sender.Close()
}

// broadcast is a learner's parameters on their way to followers.
type broadcast struct {
	sender    *protocol.Broadcaster
	followers int
	version   uint64
	blob      []byte
	delivered tally
	plain     *plainBroadcast
}

// follow takes parameters as an actor does, until ctx ends.
func (b *broadcast) follow(ctx context.Context, server *protocol.Server, name string) error {
	bus, err := connect(ctx, server, protocol.RoleActor, name)
	if err != nil {
		return err
	}
	defer bus.Close()
	err = bus.FollowParams(ctx, func(uint64, []byte) { b.delivered.add(1) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// publish sends the next version and waits until every follower has it.
func (b *broadcast) publish(ctx context.Context, blob []byte) error {
	b.version++
	done := b.delivered.expect(b.followers)
	if err := b.sender.Publish(ctx, b.version, blob); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// plainBroadcast sends bytes to subscribers that only count them, in messages
// of the same size and at the same pace as a broadcaster.
type plainBroadcast struct {
	conns    []*nats.Conn // the last one publishes
	received tally        // bytes, all subscribers together
}

func newPlainBroadcast(url string, subscribers int) (p *plainBroadcast, err error) {
	p = &plainBroadcast{}
	for i := range subscribers + 1 {
		nc, err := nats.Connect(url)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("plain connection: %w", err)
		}
		p.conns = append(p.conns, nc)
		if i == subscribers {
			continue
		}
		if err := subscribe(nc, plainSubject, func(m *nats.Msg) { p.received.add(len(m.Data)) }); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

// publish waits until every subscriber has the bytes.
func (p *plainBroadcast) publish(ctx context.Context, blob []byte) error {
	const pace = 8 << 20 // a broadcaster's bytes between two round trips
	last := len(p.conns) - 1
	done := p.received.expect(last * len(blob))
	nc := p.conns[last]
	for at := 0; at < len(blob); at += protocol.FrameBytes {
		if at%pace == 0 && at > 0 {
			if err := nc.FlushTimeout(time.Minute); err != nil {
				return err
			}
		}
		if err := nc.Publish(plainSubject, blob[at:min(at+protocol.FrameBytes, len(blob))]); err != nil {
			return err
		}
	}
	if err := nc.FlushTimeout(time.Minute); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *plainBroadcast) close() {
	for _, nc := range p.conns {
		nc.Close()
	}
}
