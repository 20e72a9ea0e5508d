package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dreamfleet/dreamfleet/protocol"
)

const patience = 20 * time.Second

// eventually polls until ok, the deadline is for machines that are very busy.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func startServer(t *testing.T, cfg protocol.ServerConfig) *protocol.Server {
	t.Helper()
	if cfg.StoreDir == "" {
		cfg.StoreDir = t.TempDir()
	}
	s, err := protocol.StartServer(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t *testing.T, cfg protocol.BusConfig) *protocol.Bus {
	t.Helper()
	b, err := tryConnect(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func tryConnect(t *testing.T, cfg protocol.BusConfig) (*protocol.Bus, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if cfg.Run == "" {
		cfg.Run = "park"
	}
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	if cfg.Role == "" {
		cfg.Role = protocol.RoleOperator
	}
	if cfg.CheckpointBytes == 0 {
		cfg.CheckpointBytes = 64 << 20
	}
	if cfg.TrajBytes == 0 {
		cfg.TrajBytes = 64 << 20
	}
	cfg.Jitter = func(time.Duration) time.Duration { return 0 }
	return protocol.Connect(ctx, cfg, hclog.NewNullLogger())
}

// background runs f until the test ends or stop is called, and waits for it.
func background(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// raw is a plain client beside the bus.
func raw(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func chunk(seq uint64) *protocol.Chunk {
	return &protocol.Chunk{
		Run: "park", Actor: "a0", Env: 1, Seq: seq, Trial: 1, Task: "default",
		Steps: 2, ObsLen: 3, Actions: 4, Stride: 2, ContextLen: 1,
		Obs: make([]float32, 6), Action: []uint16{1, 2}, Reward: []float32{0, float32(seq)},
		Flags: []uint8{0, 0}, LogProb: []float32{0, 0}, Context: []float32{0},
	}
}

// publish sends a chunk and waits for its outcome.
func publish(t *testing.T, b *protocol.Bus, c *protocol.Chunk) error {
	t.Helper()
	outcome := make(chan error, 1)
	err := b.PublishChunk(t.Context(), c, func(seq uint64, err error) {
		if seq != c.Seq {
			t.Errorf("outcome of chunk %d for chunk %d", seq, c.Seq)
		}
		outcome <- err
	})
	if err != nil {
		return err
	}
	return <-outcome
}

func mustPublish(t *testing.T, b *protocol.Bus, chunks ...*protocol.Chunk) {
	t.Helper()
	for _, c := range chunks {
		if err := publish(t, b, c); err != nil {
			t.Fatal(err)
		}
	}
}

// received collects chunks' sequence numbers.
type received struct {
	mu   sync.Mutex
	seqs []uint64
}

func (r *received) add(seq uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seqs = append(r.seqs, seq)
	return len(r.seqs)
}

func (r *received) is(want ...uint64) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Sprint(r.seqs) == fmt.Sprint(want)
	}
}

// all is is for chunks that may come in any order.
func (r *received) all(want ...uint64) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Equal(slices.Sorted(slices.Values(r.seqs)), want)
	}
}

// Every part of the bus behaves the same in process and over TCP, with keys
// and without.
func TestChunksFromActorToReplay(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]protocol.ServerConfig{
		"open":      {Listen: "127.0.0.1:0"},
		"with keys": {Listen: "127.0.0.1:0", Keys: t.TempDir()},
	} {
		s := startServer(t, server)
		for _, where := range []string{"in process", "TCP"} {
			t.Run(name+", "+where, func(t *testing.T) {
				role := func(role protocol.Role) *protocol.Bus {
					cfg := protocol.BusConfig{Server: s, Role: role, Run: "park"}
					if where == "TCP" {
						cfg.Server, cfg.URL = nil, s.URL()
						if server.Keys != "" {
							cfg.Credentials = server.Keys + "/" + string(role) + ".nk"
						}
					}
					return connect(t, cfg)
				}
				replay, actor := role(protocol.RoleReplay), role(protocol.RoleActor)
				var got received
				background(t, func(ctx context.Context) error {
					return replay.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
						got.add(m.Chunk.Seq)
						if err := m.Ack(); err != nil {
							t.Error(err)
						}
					})
				})
				first := uint64(len(where)) * 10 // other message ids each time
				mustPublish(t, actor, chunk(first), chunk(first+1))
				eventually(t, "both chunks arrive", got.is(first, first+1))
				if s := actor.Stats(); s.Published != 2 || s.Denied != 0 || s.PublishFailed != 0 {
					t.Errorf("actor: %+v", s)
				}
				if s := replay.Stats(); s.Consumed != 2 || s.Redelivered != 0 || s.Denied != 0 || s.AsyncErrors != 0 {
					t.Errorf("replay: %+v", s)
				}
			})
		}
	}
}

func TestSetupIsIdempotentAndChecked(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	connect(t, protocol.BusConfig{Server: s})
	connect(t, protocol.BusConfig{Server: s, TrajBytes: 32 << 20})
	_, js := raw(t, s.URL())
	stream, err := js.Stream(t.Context(), "TRAJ")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.MaxBytes; got != 32<<20 {
		t.Errorf("bound of TRAJ is %d, the last configured is %d", got, 32<<20)
	}

	if err := js.DeleteStream(t.Context(), "TRAJ"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "TRAJ", Subjects: []string{"traj.>"}, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardOld,
	}); err != nil {
		t.Fatal(err)
	}
	_, err = tryConnect(t, protocol.BusConfig{Server: s})
	if !errors.Is(err, protocol.ErrIncompatible) || !strings.Contains(err.Error(), "TRAJ") || !strings.Contains(err.Error(), "discard") {
		t.Errorf("error does not name stream and setting: %v", err)
	}
}

func TestSetupRace(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	var all sync.WaitGroup
	for _, role := range protocol.Roles {
		all.Go(func() {
			b, err := tryConnect(t, protocol.BusConfig{Server: s, Role: role})
			if err != nil {
				t.Errorf("%s: %v", role, err)
				return
			}
			b.Close()
		})
	}
	all.Wait()
}

func TestBusConfigErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	for want, cfg := range map[string]protocol.BusConfig{
		"either an embedded server or the URL": {},
		"run is \"a b\"":                       {Server: s, Run: "a b"},
		"name is \"x.y\"":                      {Server: s, Name: "x.y"},
		"role is \"boss\"":                     {Server: s, Role: "boss"},
		"trajectory stream":                    {Server: s, TrajBytes: 10},
		"heartbeat's life":                     {Server: s, HeartbeatTTL: time.Millisecond},
		"no such file":                         {Server: s, Credentials: "/nowhere/x.nk"},
	} {
		if _, err := tryConnect(t, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

func TestServerConfigErrors(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]protocol.ServerConfig{
		"no store folder":        {},
		"let anyone in":          {StoreDir: t.TempDir(), Listen: "0.0.0.0:0"},
		"is not host:port":       {StoreDir: t.TempDir(), Listen: "4222"},
		"number from 0 to 65535": {StoreDir: t.TempDir(), Listen: "127.0.0.1:x"},
		"configuration file":     {StoreDir: t.TempDir(), File: "/nowhere/nats.conf"},
	} {
		if s, err := protocol.StartServer(cfg, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), want) {
			if err == nil {
				s.Close()
			}
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
	startServer(t, protocol.ServerConfig{Listen: "0.0.0.0:0", Keys: t.TempDir()})
	for want, conf := range map[string]string{
		"listening on 0.0.0.0":        "listen: '0.0.0.0:-1'",
		"other servers":               "listen: '127.0.0.1:-1', cluster { name: x, listen: '0.0.0.0:-1' }",
		"leaf nodes":                  "listen: '127.0.0.1:-1', leafnodes { listen: '0.0.0.0:-1' }",
		"web sockets":                 "listen: '127.0.0.1:-1', websocket { listen: '0.0.0.0:-1', no_tls: true }",
		"connections and subjects on": "listen: '127.0.0.1:-1', http: '0.0.0.0:-1'",
	} {
		file := filepath.Join(t.TempDir(), "nats.conf")
		writeFile(t, file, strings.ReplaceAll(conf, "'", `"`)+"\n")
		s, err := protocol.StartServer(protocol.ServerConfig{StoreDir: t.TempDir(), File: file}, hclog.NewNullLogger())
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "would let anyone in") {
			t.Errorf("%s: want an error with %q, got %v", conf, want, err)
		}
	}
}

func TestPublishIsDeduplicated(t *testing.T) {
	t.Parallel()
	b := connect(t, protocol.BusConfig{Server: startServer(t, protocol.ServerConfig{})})
	mustPublish(t, b, chunk(1), chunk(1), chunk(2))
	if s := b.Stats(); s.Published != 3 || s.Duplicates != 1 {
		t.Errorf("%+v", s)
	}
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	eventually(t, "each chunk arrives once", got.is(1, 2))
}

func TestRedelivery(t *testing.T) {
	t.Parallel()
	b := connect(t, protocol.BusConfig{Server: startServer(t, protocol.ServerConfig{}), AckWait: 200 * time.Millisecond})
	mustPublish(t, b, chunk(1))
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
			var err error
			switch got.add(m.Chunk.Seq) {
			case 1: // neither yes nor no
			case 2:
				err = m.Nak(0)
			default:
				err = m.Ack()
			}
			if err != nil {
				t.Error(err)
			}
		})
	})
	eventually(t, "silence and Nak bring the chunk again, Ack does not", got.is(1, 1, 1))
	if s := b.Stats(); s.Redelivered != 2 {
		t.Errorf("%+v", s)
	}
}

// A consumer that ends gives back what was delivered to it and not taken. The
// server may put a redelivery that meets an expired pull behind the next one.
func TestConsumerHandsOver(t *testing.T) {
	t.Parallel()
	b := connect(t, protocol.BusConfig{Server: startServer(t, protocol.ServerConfig{}), AckWait: time.Hour})
	mustPublish(t, b, chunk(1), chunk(2), chunk(3))
	ctx, cancel := context.WithCancel(t.Context())
	err := b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { _ = m.Ack(); cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	eventually(t, "the rest arrives", got.all(2, 3))
}

func TestPublishErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	b := connect(t, protocol.BusConfig{Server: s, TrajBytes: protocol.MaxMessage})
	other := chunk(1)
	other.Run = "other"
	if err := publish(t, b, other); !errors.Is(err, protocol.ErrCorrupt) {
		t.Errorf("another run's chunk: %v", err)
	}
	large := chunk(0)
	large.ContextLen = 700_000
	large.Context = make([]float32, large.ContextLen)
	for ; large.Seq < 3; large.Seq++ {
		if err := publish(t, b, large); err != nil {
			if !errors.Is(err, protocol.ErrFull) {
				t.Errorf("a full stream: %v", err)
			}
			break
		}
	}
	if got := b.Stats(); got.Published != 2 || got.PublishFailed != 1 {
		t.Errorf("8 MiB hold two chunks of 2.8 MB: %+v", got)
	}
}

// A server with a smaller max_payload than ours is met with a clear error
// instead of a closed connection.
func TestPayloadOfTheServer(t *testing.T) {
	t.Parallel()
	conf := t.TempDir() + "/nats.conf"
	writeFile(t, conf, "host: 127.0.0.1\nport: -1\nmax_payload: 1MB\n")
	s := startServer(t, protocol.ServerConfig{File: conf})
	b := connect(t, protocol.BusConfig{URL: s.URL()})
	large := chunk(1)
	large.ContextLen = 300_000
	large.Context = make([]float32, large.ContextLen)
	err := publish(t, b, large)
	if !errors.Is(err, protocol.ErrTooLarge) || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("got %v", err)
	}
	mustPublish(t, b, chunk(2))
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := connect(t, protocol.BusConfig{Server: s})
	good, err := chunk(1).AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	_, js := raw(t, s.URL())
	bad := map[string][]byte{
		"version":   spoil(func(b []byte) []byte { b[6]++; return b }),
		"truncated": spoil(func(b []byte) []byte { return b[:len(b)-1] }),
		"corrupt":   spoil(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }),
	}
	for _, data := range bad {
		if _, err := js.Publish(t.Context(), "traj.park.a0", data); err != nil {
			t.Fatal(err)
		}
	}
	// A chunk that names another actor than its subject does.
	if _, err := js.Publish(t.Context(), "traj.park.a1", good); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, chunk(2), chunk(3))

	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
			if got.add(m.Chunk.Seq); m.Chunk.Seq == 2 {
				m.Reject(ctx, fmt.Errorf("too wide: %w", protocol.ErrTooLarge))
			} else if err := m.Ack(); err != nil {
				t.Error(err)
			}
		})
	})
	eventually(t, "the good chunks arrive", got.is(2, 3))
	want := map[string]uint64{"version": 1, "truncated": 1, "corrupt": 2, "too_large": 1}
	eventually(t, "each reason is counted", func() bool { return fmt.Sprint(b.Stats().DeadLettered) == fmt.Sprint(want) })

	dead, err := js.Stream(t.Context(), "DEAD")
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]uint64{}
	for seq := range uint64(5) {
		msg, err := dead.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		reason := msg.Header.Get("Df-Reason")
		kept[reason]++
		if data, ok := bad[reason]; ok && reason != "corrupt" && !bytes.Equal(msg.Data, data) {
			t.Errorf("%s: the message was not kept as it came", reason)
		}
		if subject := msg.Header.Get("Df-Subject"); !strings.HasPrefix(subject, "traj.park.a") || msg.Header.Get("Df-Error") == "" {
			t.Errorf("%s: headers %v", reason, msg.Header)
		}
	}
	if fmt.Sprint(kept) != fmt.Sprint(want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
	traj, err := js.Stream(t.Context(), "TRAJ")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the work queue is empty", func() bool {
		info, err := traj.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	cfg := protocol.ServerConfig{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"}
	s := startServer(t, cfg)
	cfg.Listen = strings.TrimPrefix(s.URL(), "nats://")
	b := connect(t, protocol.BusConfig{URL: s.URL()})
	var got received
	background(t, func(ctx context.Context) error {
		return b.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	mustPublish(t, b, chunk(1))
	eventually(t, "the first chunk arrives", got.is(1))

	s.Close()
	eventually(t, "the loss is noticed", func() bool { return !b.Connected() })
	if err := publish(t, b, chunk(2)); !errors.Is(err, protocol.ErrDisconnected) {
		t.Errorf("publishing without a connection: %v", err)
	}
	startServer(t, cfg)
	eventually(t, "the chunk can be sent again", func() bool { return publish(t, b, chunk(2)) == nil })
	eventually(t, "the second chunk arrives", got.is(1, 2))
	if s := b.Stats(); s.Disconnects != 1 || s.Reconnects != 1 || s.PublishFailed == 0 {
		t.Errorf("%+v", s)
	}
}

// Roles may start before the server.
func TestConnectWaitsForTheServer(t *testing.T) {
	t.Parallel()
	cfg := protocol.ServerConfig{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"}
	s := startServer(t, cfg)
	url := s.URL()
	cfg.Listen = strings.TrimPrefix(url, "nats://")
	s.Close()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := protocol.Connect(ctx, protocol.BusConfig{URL: url, Run: "r", Name: "n", Role: protocol.RoleActor}, hclog.NewNullLogger())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	type result struct {
		bus *protocol.Bus
		err error
	}
	done := make(chan result, 1)
	go func() {
		b, err := tryConnect(t, protocol.BusConfig{URL: url})
		done <- result{b, err}
	}()
	startServer(t, cfg)
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	r.bus.Close()
}

func TestDenials(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	s := startServer(t, protocol.ServerConfig{Keys: keys, Listen: "127.0.0.1:0"})
	connect(t, protocol.BusConfig{Server: s})
	actor := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor})

	if err := actor.PublishFlow(protocol.Flow{Hold: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an actor that publishes flow is told", func() bool { return actor.Stats().Denied == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := actor.PutConfig(ctx, []byte("x")); err == nil {
		t.Error("an actor has written the configuration")
	}
	eventually(t, "an actor that writes the configuration is told", func() bool { return actor.Stats().Denied == 2 })

	if _, err := tryConnect(t, protocol.BusConfig{URL: s.URL(), Role: protocol.RoleActor}); err == nil || !strings.Contains(err.Error(), "Authorization") {
		t.Errorf("connected without a key: %v", err)
	}
}

func TestConfigAndHeartbeats(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	actor := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor, Name: "a0", HeartbeatTTL: time.Second})
	config := make(chan []byte, 1)
	background(t, func(ctx context.Context) error {
		data, err := actor.GetConfig(ctx)
		if err != nil {
			t.Error(err)
		}
		config <- data
		<-ctx.Done()
		return ctx.Err()
	})
	// The actor is there first, and before the buckets.
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, HeartbeatTTL: time.Second})
	if err := learner.PutConfig(t.Context(), []byte("seed: 0\n")); err != nil {
		t.Fatal(err)
	}
	if got := <-config; string(got) != "seed: 0\n" {
		t.Errorf("configuration is %q", got)
	}
	if err := learner.PutConfig(t.Context(), make([]byte, protocol.MaxConfig+1)); !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("a huge configuration: %v", err)
	}

	background(t, func(ctx context.Context) error {
		return learner.Heartbeat(ctx, func(s *protocol.Status) { s.Learner = &protocol.LearnerStatus{Phase: "step 5"} })
	})
	stop := background(t, func(ctx context.Context) error {
		return actor.Heartbeat(ctx, func(s *protocol.Status) { s.Actor = &protocol.ActorStatus{Waiting: "well"} })
	})
	listing := func() string {
		beats, err := learner.Heartbeats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, h := range beats {
			said := ""
			if s := h.Status.Actor; s != nil {
				said += s.Waiting
			}
			if s := h.Status.Learner; s != nil {
				said += s.Phase
			}
			if h.Status.Host == "" || h.Status.PID != os.Getpid() || h.Status.Started.IsZero() {
				t.Errorf("%s/%s is %+v", h.Role, h.Name, h.Status)
			}
			text = append(text, fmt.Sprintf("%s/%s %s", h.Role, h.Name, said))
		}
		return strings.Join(text, ", ")
	}
	eventually(t, "both are alive", func() bool { return listing() == "actor/a0 well, learner/test step 5" })
	stop()
	eventually(t, "the silent one is gone", func() bool { return listing() == "learner/test step 5" })
}

func TestFlow(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir(), Listen: "127.0.0.1:0"})
	replay := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleReplay})
	actor := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor})
	got := make(chan protocol.Flow, 100)
	background(t, func(ctx context.Context) error {
		return actor.FollowFlow(ctx, func(f protocol.Flow) {
			select {
			case got <- f:
			default:
			}
		})
	})
	want := protocol.Flow{Hold: true, Reason: "samples are behind", Inserts: 10, Samples: 3}
	eventually(t, "the actor is told", func() bool {
		if err := replay.PublishFlow(want); err != nil {
			t.Fatal(err)
		}
		select {
		case f := <-got:
			return f == want
		default:
			return false
		}
	})
}

// A message of no stream that cannot be decoded is counted by reason, kept as it
// came, and skipped.
func TestBadFlowIsCountedAndKept(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0", Keys: keys})
	connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleReplay}) // sets up DEAD
	b := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner})
	opt, err := nats.NkeyOptionFromSeed(filepath.Join(keys, "operator.nk"))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.URL(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error {
		return b.FollowFlow(ctx, func(f protocol.Flow) { t.Errorf("took %+v", f) })
	})
	eventually(t, "bad messages are counted", func() bool {
		if err := nc.Publish("flow.park", []byte("{")); err != nil {
			t.Fatal(err)
		}
		return b.Stats().Refused["corrupt"] > 2
	})
	dead, err := js.Stream(t.Context(), "DEAD")
	if err != nil {
		t.Fatal(err)
	}
	var kept *jetstream.RawStreamMsg
	eventually(t, "one is kept", func() bool {
		kept, err = dead.GetMsg(t.Context(), 1)
		return err == nil
	})
	if string(kept.Data) != "{" || kept.Subject != "dead.park" || kept.Header.Get("Df-Reason") != "corrupt" || kept.Header.Get("Df-Subject") != "flow.park" {
		t.Errorf("kept %q on %s with %v", kept.Data, kept.Subject, kept.Header)
	}
	if _, err := dead.GetMsg(t.Context(), 2); err == nil {
		t.Error("the next of the same moment are kept too")
	}
	if n := b.Stats().Denied; n > 0 {
		t.Errorf("%d denials", n)
	}
}

func TestCheckpoints(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	b := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner})
	lease := take(t, b)
	var got bytes.Buffer
	if _, err := b.GetCheckpoint(t.Context(), &got); !errors.Is(err, protocol.ErrNoCheckpoint) {
		t.Errorf("no checkpoint yet: %v", err)
	}
	for version := range uint64(3) {
		want := bytes.Repeat([]byte{byte(version)}, 300_000)
		for range 2 { // a learner that was resumed comes to the same version again
			if err := lease.PutCheckpoint(t.Context(), version+7, bytes.NewReader(want), 2); err != nil {
				t.Fatal(err)
			}
		}
		got.Reset()
		newest, err := b.GetCheckpoint(t.Context(), &got)
		if err != nil || newest != version+7 || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("got version %d of %d bytes, %v", newest, got.Len(), err)
		}
	}
	other := connect(t, protocol.BusConfig{Server: s, Run: "other"})
	if _, err := other.GetCheckpoint(t.Context(), &got); !errors.Is(err, protocol.ErrNoCheckpoint) {
		t.Errorf("another run's checkpoint: %v", err)
	}
}

// A request that nobody answers does not hold a checkpoint for ever: here the server drops that for a consumer of
// the object's chunks, as one does that ceases to lead them.
func TestCheckpointsThatStall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(file, []byte(`
port: -1
host: 127.0.0.1
jetstream { store_dir: "`+dir+`" }
no_auth_user: learner
authorization { users: [{user: learner, password: x, permissions: {publish: {deny: "$JS.API.CONSUMER.CREATE.OBJ_CKPT.>"}}}] }
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, protocol.ServerConfig{File: file})
	b := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, StallTimeout: 200 * time.Millisecond})
	if err := take(t, b).PutCheckpoint(t.Context(), 1, strings.NewReader("one"), 2); !errors.Is(err, protocol.ErrStalled) {
		t.Errorf("its old ones can not be listed: %v", err)
	}
	if _, err := b.GetCheckpoint(t.Context(), io.Discard); !errors.Is(err, protocol.ErrStalled) {
		t.Errorf("it can not be read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.GetCheckpoint(ctx, io.Discard); !errors.Is(err, context.Canceled) || errors.Is(err, protocol.ErrStalled) {
		t.Errorf("nobody waits for it: %v", err)
	}
}

// A stream whose bound is more than the server's storage is refused with what to
// do; one that is made with its first use costs nothing before.
func TestStorageIsSetAside(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte("port: -1\nhost: 127.0.0.1\njetstream { max_file_store: 256MB }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, protocol.ServerConfig{File: file})
	_, err := tryConnect(t, protocol.BusConfig{Server: s, Role: protocol.RoleReplay, TrajBytes: 1 << 30})
	if err == nil || !strings.Contains(err.Error(), "bus.store_bytes") {
		t.Errorf("a stream of 1 GiB in 256 MB of storage: %v", err)
	}
	b := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, CheckpointBytes: 1 << 30})
	if err := take(t, b).PutCheckpoint(t.Context(), 1, strings.NewReader("x"), 1); err == nil {
		t.Error("a store of 1 GiB in 256 MB of storage")
	}
}

// A role learns that its run has got another configuration.
func TestAwaitConfig(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner})
	actor := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor, ConfigCheck: 10 * time.Millisecond})
	if err := learner.PutConfig(t.Context(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	have, err := actor.GetConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := actor.AwaitConfig(ctx, have); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the same configuration: %v", err)
	}
	if err := learner.PutConfig(t.Context(), []byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := actor.AwaitConfig(t.Context(), have); err != nil {
		t.Errorf("another configuration: %v", err)
	}
}

// Callbacks have all been called when Close returns, and calls after it fail.
func TestClose(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	b := connect(t, protocol.BusConfig{Server: s})
	var called received
	for seq := range uint64(20) {
		if err := b.PublishChunk(t.Context(), chunk(seq), func(seq uint64, _ error) { called.add(seq) }); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	if len(called.seqs) != 20 {
		t.Errorf("%d of 20 callbacks", len(called.seqs))
	}
	if err := publish(t, b, chunk(99)); err == nil {
		t.Error("published on a closed bus")
	}
	b.Close()
}
