package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dreamfleet/dreamfleet/chaos"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// An actor of a program that is a version older or newer than the replay's is heard of
// there: its chunks are set aside, counted, and do not hold up those of others.
func TestActorsOfOtherVersions(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleReplay})
	now, err := chunk(1).AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, js := raw(t, s.URL())
	for _, version := range []byte{now[6] - 1, now[6] + 1} {
		other := bytes.Clone(now)
		other[6] = version
		if _, err := js.Publish(t.Context(), "traj.park.a0", other); err != nil {
			t.Fatal(err)
		}
	}
	mustPublish(t, connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor}), chunk(2))
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	eventually(t, "the chunk between them arrives", got.is(2))
	eventually(t, "the others are counted", func() bool { return b.Stats().DeadLettered["version"] == 2 })
	dead, err := js.Stream(t.Context(), "DEAD")
	if err != nil {
		t.Fatal(err)
	}
	for seq, want := range []string{"version 0, this program reads 1", "version 2, this program reads 1"} {
		msg, err := dead.GetMsg(t.Context(), uint64(seq+1))
		if err != nil || !strings.Contains(msg.Header.Get("Df-Error"), want) {
			t.Errorf("dead letter %d: %v, %v, want %q", seq+1, msg, err, want)
		}
	}
}

// A stream that is full refuses what comes and keeps what it has; when it has been
// read there is room again.
func TestFullStreamIsEmptied(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	b := connect(t, protocol.BusConfig{Server: s, TrajBytes: protocol.MaxMessage})
	large := func(seq uint64) *protocol.Chunk {
		c := chunk(seq)
		c.ContextLen = 700_000
		c.Context = make([]float32, c.ContextLen)
		return c
	}
	mustPublish(t, b, large(1), large(2))
	if err := publish(t, b, large(3)); !errors.Is(err, protocol.ErrFull) {
		t.Fatalf("got %v", err)
	}
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	eventually(t, "what was acknowledged arrives", got.is(1, 2))
	eventually(t, "there is room", func() bool { return publish(t, b, large(3)) == nil })
	eventually(t, "the last one arrives", got.is(1, 2, 3))
}

// A subscriber that does not keep up loses messages, which is counted, and hears the
// newest once it does.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	replay, actor := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleReplay}), connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor})
	busy := make(chan struct{})
	var newest atomic.Uint64
	background(t, func(ctx context.Context) error {
		return actor.FollowFlow(ctx, func(f protocol.Flow) {
			select {
			case <-busy:
			case <-ctx.Done():
			}
			newest.Store(f.Inserts)
		})
	})
	n := uint64(0)
	tell := func() {
		n++
		if err := replay.PublishFlow(protocol.Flow{Reason: strings.Repeat("x", 200), Inserts: n}); err != nil {
			t.Fatal(err)
		}
	}
	// The client keeps 64 MB or 500 000 messages for a subscription.
	eventually(t, "messages are dropped", func() bool {
		for range 10_000 {
			tell()
		}
		return actor.Stats().SlowConsumers > 0
	})
	close(busy)
	eventually(t, "the newest arrives", func() bool { tell(); return newest.Load() > n-3 })
}

// A server whose disk is full acknowledges nothing that it cannot keep, and says why;
// with room, and started again, it has all that it acknowledged.
func TestServerOnAFullDisk(t *testing.T) {
	disk := chaos.SmallDisk(t, 160<<20) // the server sets three quarters aside for streams
	cfg := protocol.ServerConfig{StoreDir: filepath.Join(disk, "nats"), Listen: "127.0.0.1:0"}
	s := startServer(t, cfg)
	cfg.Listen = strings.TrimPrefix(s.URL(), "nats://")
	b := connect(t, protocol.BusConfig{URL: s.URL(), TrajBytes: 32 << 20, DeadBytes: protocol.MaxMessage})
	mustPublish(t, b, chunk(1))
	free := chaos.Fill(t, disk)
	large := chunk(2)
	large.ContextLen = 200_000
	large.Context = make([]float32, large.ContextLen)
	outcome := make(chan error, 1)
	if err := b.PublishChunk(t.Context(), large, func(_ uint64, err error) { outcome <- err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := s.Await(ctx)
	for _, want := range []string{"can no longer store", "TRAJ", "no space left on device"} {
		if !errors.Is(err, protocol.ErrStore) || !strings.Contains(err.Error(), want) {
			t.Errorf("it ends with %v, without %q", err, want)
		}
	}
	if err := s.Healthy(); !errors.Is(err, protocol.ErrStore) {
		t.Errorf("its health is %v", err)
	}
	s.Close()
	free()
	startServer(t, cfg)
	if err := <-outcome; err == nil {
		t.Error("800 kB on a full disk were acknowledged")
	}
	eventually(t, "it can be sent again", func() bool { return publish(t, b, large) == nil })
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	eventually(t, "all that was acknowledged arrives", got.is(1, 2))
}
