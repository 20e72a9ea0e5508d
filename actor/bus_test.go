package actor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func startServer(t *testing.T, cfg protocol.ServerConfig) *protocol.Server {
	t.Helper()
	s, err := protocol.StartServer(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, cfg protocol.BusConfig, role protocol.Role) *protocol.Bus {
	t.Helper()
	cfg.Run, cfg.Role, cfg.Name = "park", role, string(role)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	bus, err := protocol.Connect(ctx, cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return bus
}

// eventually waits for a condition, at most 20 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come about", what)
		}
	}
}

// collector is a replay that only counts.
type collector struct {
	mu     sync.Mutex
	chunks map[string]*protocol.Chunk
}

// collect consumes chunks until the function returned is called.
func collect(t *testing.T, bus *protocol.Bus) (c *collector, stop func()) {
	t.Helper()
	c = &collector{chunks: map[string]*protocol.Chunk{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = bus.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
			c.mu.Lock()
			c.chunks[m.Chunk.MessageID()] = m.Chunk
			c.mu.Unlock()
			if err := m.Ack(); err != nil {
				t.Logf("acknowledge %s: %v", m.Chunk.MessageID(), err)
			}
		})
	})
	return c, func() { cancel(); wg.Wait() }
}

func (c *collector) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.chunks)
}

// has reports whether some chunk satisfies ok.
func (c *collector) has(ok func(*protocol.Chunk) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, chunk := range c.chunks {
		if ok(chunk) {
			return true
		}
	}
	return false
}

// complete fails unless every stream's chunks are there from 0 without a gap.
func (c *collector) complete(t *testing.T, streams int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[string]uint64{}
	for _, chunk := range c.chunks {
		count[fmt.Sprint(chunk.Actor, "/", chunk.Env)]++
	}
	if len(count) != streams {
		t.Errorf("chunks of %d streams came, want %d", len(count), streams)
	}
	for _, chunk := range c.chunks {
		if n := count[fmt.Sprint(chunk.Actor, "/", chunk.Env)]; chunk.Seq >= n {
			t.Errorf("chunk %s came, but only %d of its stream", chunk.MessageID(), n)
		}
	}
}

// slow makes ticks take a millisecond: a policy's forward pass.
type slow struct{ *script }

func (s slow) Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32) {
	time.Sleep(time.Millisecond)
	s.script.Act(obs, flags, mask, action, logProb)
}

func slowActor(t *testing.T, name string, bus Publisher) *Actor {
	t.Helper()
	a, err := New(Config{Run: "park", Name: name, ChunkLength: 10, Stride: 5, Spool: 1000}, trials(t, 2, true), slow{newScript(2)}, bus, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	letRun(a)
	return a
}

// letRun gives an actor leave without an end.
func letRun(a *Actor) { a.flow.Store(&told{at: time.Now(), leave: math.MaxInt}) }

// Two actors of one process on a real bus: their chunks arrive, they follow
// parameters and flow, they are seen by their heartbeat, and nothing is lost
// when they end.
func TestServeOnTheBus(t *testing.T) {
	server := startServer(t, protocol.ServerConfig{StoreDir: t.TempDir(), Keys: t.TempDir()})
	defer server.Close()
	replay := connect(t, protocol.BusConfig{Server: server}, protocol.RoleReplay)
	defer replay.Close()
	learner := connect(t, protocol.BusConfig{Server: server}, protocol.RoleLearner)
	defer learner.Close()
	operator := connect(t, protocol.BusConfig{Server: server}, protocol.RoleOperator)
	defer operator.Close()
	bus := connect(t, protocol.BusConfig{Server: server, HeartbeatTTL: time.Second}, protocol.RoleActor)
	defer bus.Close()

	got, stop := collect(t, replay)
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	actors := []*Actor{slowActor(t, "a", bus), slowActor(t, "b", bus)}
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, bus, hclog.NewNullLogger(), actors...) }()

	eventually(t, "a first chunk", func() bool { return got.len() > 0 })
	lease, err := learner.TakeLease(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	params, err := lease.NewBroadcaster()
	if err != nil {
		t.Fatal(err)
	}
	defer params.Close()
	if err := params.Publish(ctx, 7, []byte{3}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a chunk under version 7", func() bool {
		return got.has(func(c *protocol.Chunk) bool { return c.ParamVersion == 7 && c.Actor == "b" })
	})
	if err := params.Publish(ctx, 8, []byte("no parameters")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refusal of version 8", func() bool { return actors[0].Stats().ParamsRejected == 1 })
	if s := actors[0].Stats(); s.ParamVersion != 7 {
		t.Errorf("version %d acts after 8 was refused, want 7", s.ParamVersion)
	}

	eventually(t, "the hold", func() bool {
		if err := replay.PublishFlow(protocol.Flow{Hold: true, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		return actors[1].Stats().Held == "test"
	})
	eventually(t, "a standstill", func() bool {
		before := actors[1].Stats().Steps
		time.Sleep(20 * time.Millisecond)
		return actors[1].Stats().Steps == before
	})
	if err := replay.PublishFlow(protocol.Flow{}); err != nil {
		t.Fatal(err)
	}
	held := actors[1].Stats().Steps
	eventually(t, "running on", func() bool { return actors[1].Stats().Steps > held })

	eventually(t, "a heartbeat", func() bool {
		beats, err := operator.Heartbeats(ctx)
		if err != nil || len(beats) != 1 {
			return false
		}
		s := beats[0].Status.Actor
		return s != nil && s.Actors == 2 && s.Names[1] == "b" && s.Steps > 0 && s.StepsPerSecond > 0
	})

	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	var chunks uint64
	for _, a := range actors {
		s := a.Stats()
		if s.Dropped+s.Refused > 0 || s.SpoolChunks > 0 || s.Published != s.Chunks {
			t.Errorf("actor ends with %+v", s)
		}
		chunks += s.Chunks
	}
	eventually(t, "the last chunk", func() bool { return uint64(got.len()) == chunks })
	got.complete(t, 4)
}

// A server that goes away and comes back costs no chunk, as long as the spool
// holds what is made meanwhile.
func TestServerGoesAndComesBack(t *testing.T) {
	store := t.TempDir()
	server := startServer(t, protocol.ServerConfig{StoreDir: store, Listen: "127.0.0.1:0"})
	url := server.URL()
	// Chunks under way to the replay when the server went come again after AckWait.
	replay := connect(t, protocol.BusConfig{URL: url, AckWait: time.Second}, protocol.RoleReplay)
	defer replay.Close()
	bus := connect(t, protocol.BusConfig{URL: url}, protocol.RoleActor)
	defer bus.Close()
	got, stop := collect(t, replay)
	defer stop()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := slowActor(t, "a", bus)
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, bus, hclog.NewNullLogger(), a) }()
	eventually(t, "a first chunk", func() bool { return got.len() > 0 })

	server.Close()
	eventually(t, "a failure", func() bool { return a.Stats().Failed > 0 })
	away := a.Stats().Steps
	eventually(t, "acting on without a server", func() bool { return a.Stats().Steps > away+50 })
	server = startServer(t, protocol.ServerConfig{StoreDir: store, Listen: url[len("nats://"):]})
	defer server.Close()
	before := got.len()
	eventually(t, "chunks after the server came back", func() bool { return got.len() > before+10 })

	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	s := a.Stats()
	if s.Dropped+s.Refused > 0 || s.SpoolChunks > 0 {
		t.Errorf("actor ends with %+v", s)
	}
	eventually(t, "the last chunk", func() bool { return uint64(got.len()) == s.Chunks })
	got.complete(t, 2)
}

// fragile fails after some steps.
type fragile struct {
	*game
	left int
}

func (f *fragile) Step(action int) (env.Outcome, error) {
	if f.left--; f.left < 0 {
		return env.Outcome{}, errors.New("broken")
	}
	return f.game.Step(action)
}

// When one actor fails, the others of its process drain and end.
func TestServeEndsWhenAnActorFails(t *testing.T) {
	server := startServer(t, protocol.ServerConfig{StoreDir: t.TempDir()})
	defer server.Close()
	replay := connect(t, protocol.BusConfig{Server: server}, protocol.RoleReplay)
	defer replay.Close()
	bus := connect(t, protocol.BusConfig{Server: server}, protocol.RoleActor)
	defer bus.Close()
	trial, err := env.NewTrial(&fragile{game: &game{}, left: 20}, gameTasks{}, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := New(Config{Run: "park", Name: "bad", ChunkLength: 10, Stride: 5, Spool: 10}, []*env.Trial{trial}, newScript(1), bus, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	good := slowActor(t, "good", bus)
	if err := Serve(t.Context(), bus, hclog.NewNullLogger(), bad, good); err == nil {
		t.Error("the failure is not reported")
	}
	if s := good.Stats(); s.SpoolChunks > 0 || s.Published != s.Chunks {
		t.Errorf("the other actor ends with %+v", s)
	}
}
