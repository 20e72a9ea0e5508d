package replay

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/chaos"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

func startServer(t *testing.T) *protocol.Server {
	t.Helper()
	server, err := protocol.StartServer(protocol.ServerConfig{StoreDir: t.TempDir(), Keys: t.TempDir()}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func connect(t *testing.T, server *protocol.Server, role protocol.Role) *protocol.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	bus, err := protocol.Connect(ctx, protocol.BusConfig{Server: server, Run: "run", Name: "test", Role: role, AckWait: 2 * time.Second}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
	return bus
}

// run starts a service and returns what ends it and gives its error.
func run(t *testing.T, s *Service) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func publish(t *testing.T, bus *protocol.Bus, c *protocol.Chunk) {
	t.Helper()
	done := make(chan error, 1)
	if err := bus.PublishChunk(t.Context(), c, func(_ uint64, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestServiceFromActorToLearner(t *testing.T) {
	const steps = 16
	server := startServer(t)
	cfg := testConfig(t.TempDir())
	cfg.Limiter = LimiterConfig{Ratio: 2, MinSteps: 64, Budget: 128}
	store := openStore(t, cfg)
	bus := connect(t, server, protocol.RoleReplay)
	var seen atomic.Int32
	stop := run(t, &Service{Store: store, Bus: bus, Log: hclog.NewNullLogger(), Inserted: func(*protocol.Chunk) { seen.Add(1) }, SaveEvery: time.Hour})

	learner := connect(t, server, protocol.RoleLearner)
	var flow atomic.Pointer[protocol.Flow]
	followed, end := context.WithCancel(t.Context())
	following := make(chan error, 1)
	go func() { following <- learner.FollowFlow(followed, func(f protocol.Flow) { flow.Store(&f) }) }()
	flows := func(what string, holds func(protocol.Flow) bool) {
		t.Helper()
		eventually(t, what, func() bool { f := flow.Load(); return f != nil && holds(*f) })
	}
	flows("a first flow", func(f protocol.Flow) bool { return !f.Hold && f.Inserts == 0 })

	actor := connect(t, server, protocol.RoleActor)
	for seq := range uint64(10) {
		publish(t, actor, testChunk("a", 1, seq, steps))
	}
	other := testChunk("b", 1, 0, steps)
	other.Stride, other.ContextLen, other.Context = 16, 0, nil
	publish(t, actor, other)
	eventually(t, "ten chunks stored and one refused", func() bool {
		return seen.Load() == 10 && bus.Stats().DeadLettered["other"] == 1
	})
	flows("actors are held", func(f protocol.Flow) bool { return f.Hold && f.Inserts == 160 && f.Reason != "" })

	remote, err := learner.RemoteReplay(protocol.BatchShape{Size: 4, Length: 32, ObsLen: testObs, Actions: testActions, ContextLen: testContext})
	if err != nil {
		t.Fatal(err)
	}
	b := &protocol.Batch{}
	if err := remote.Sample(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	checkBatch(t, b, steps)
	flows("actors go on", func(f protocol.Flow) bool { return !f.Hold && f.Samples == 128 })
	if err := remote.Refresh(t.Context(), &protocol.Refresh{Refs: b.Refs, Context: make([]float32, len(b.Refs)*testContext)}); err != nil {
		t.Fatal(err)
	}
	if st := store.Stats(); st.Refreshed != uint64(len(b.Refs)) || st.Chunks != 10 {
		t.Errorf("stats %+v", st)
	}
	end()
	if err := <-following; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Errorf("service ends with %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, stateFile)); err != nil {
		t.Error(err)
	}

	// Everything was acknowledged: the next service is given only what is new.
	again := connect(t, server, protocol.RoleReplay)
	stop = run(t, &Service{Store: store, Bus: again, Log: hclog.NewNullLogger()})
	publish(t, actor, testChunk("a", 1, 10, steps))
	eventually(t, "the next chunk stored", func() bool { return store.Stats().Chunks == 11 })
	if err := stop(); err != nil {
		t.Errorf("service ends with %v", err)
	}
	if n := again.Stats().Consumed; n != 1 {
		t.Errorf("%d chunks were delivered, want 1", n)
	}
}

// A chunk that is stored but not safe is not acknowledged: it comes again and
// is then dropped as a duplicate.
func TestServiceAcknowledgesAfterSync(t *testing.T) {
	server := startServer(t)
	cfg := testConfig(t.TempDir())
	store, err := Open(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	actor := connect(t, server, protocol.RoleActor)
	stop := run(t, &Service{
		Store: store, Bus: connect(t, server, protocol.RoleReplay), Log: hclog.NewNullLogger(),
		Inserted: func(c *protocol.Chunk) { // before the sync
			if err := store.disk.active.file.Close(); err != nil {
				t.Error(err)
			}
		},
	})
	publish(t, actor, testChunk("a", 0, 0, 8))
	eventually(t, "the sync fails", func() bool { _, err := store.Refresh(&protocol.Refresh{}); return err != nil })
	if err := stop(); !errors.Is(err, ErrFailed) {
		t.Errorf("service ends with %v", err)
	}
	if err := store.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}

	store = openStore(t, cfg)
	bus := connect(t, server, protocol.RoleReplay)
	stop = run(t, &Service{Store: store, Bus: bus, Log: hclog.NewNullLogger()})
	eventually(t, "the chunk comes again", func() bool { return store.Stats().Duplicates == 1 })
	if err := stop(); err != nil {
		t.Errorf("service ends with %v", err)
	}
	if st := store.Stats(); st.Chunks != 1 || bus.Stats().Redelivered != 1 {
		t.Errorf("stats %+v, bus %+v", st, bus.Stats())
	}
}

// While the disk is full nothing is acknowledged and nothing lost: what did not fit
// comes again, and is stored once there is room.
func TestServiceOnAFullDisk(t *testing.T) {
	disk := chaos.SmallDisk(t, 256<<10)
	server := startServer(t)
	cfg := testConfig(filepath.Join(disk, "replay"))
	store, err := Open(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	var said lines
	actor := connect(t, server, protocol.RoleActor)
	stop := run(t, &Service{Store: store, Bus: connect(t, server, protocol.RoleReplay), Log: hclog.New(&hclog.LoggerOptions{Output: &said})})
	publish(t, actor, testChunk("a", 0, 0, 8))
	eventually(t, "the first chunk is stored", func() bool { return store.Stats().Chunks == 1 })
	free := chaos.Fill(t, disk)
	const chunks = 40 // more than the rest of the page that the first one has begun
	for seq := range uint64(chunks) {
		publish(t, actor, testChunk("a", 0, seq+1, 8))
	}
	eventually(t, "it says what is the matter", func() bool {
		return said.has("no space left on device") && said.has("it will come again") && said.has(cfg.Dir)
	})
	free()
	eventually(t, "all are stored", func() bool { return store.Stats().Chunks == 1+chunks })
	if err := errors.Join(stop(), store.Close()); err != nil {
		t.Errorf("service ends with %v", err)
	}
	store = openStore(t, cfg)
	if st := store.Stats(); st.Chunks != 1+chunks || st.DamagedRecords != 0 || st.Evicted != 0 {
		t.Errorf("after a restart: %+v", st)
	}
}

// lines keeps what a logger writes.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// A disk that does not answer is named, with the loop that waits for it, and so is
// what that holds up.
func TestWatchdogNamesADiskThatHangs(t *testing.T) {
	server := startServer(t)
	store := openStore(t, testConfig(t.TempDir()))
	var said lines
	var clock atomic.Int64
	dog := watchdog.New(watchdog.Limit, func() time.Time { return time.Unix(clock.Load(), 0) }, hclog.New(&hclog.LoggerOptions{Output: &said}))
	actor := connect(t, server, protocol.RoleActor)
	stop := run(t, &Service{Store: store, Bus: connect(t, server, protocol.RoleReplay), Log: hclog.NewNullLogger(), Watchdog: dog})
	store.syncing.Lock() // as a sync that does not return
	publish(t, actor, testChunk("a", 0, 0, 8))
	stalled := func() bool {
		clock.Add(5)
		dog.Check()
		return dog.Stalled()
	}
	eventually(t, "the watchdog notices", stalled)
	if !said.has("role=replay") || !said.has("loop=sync") || !said.has("step=sync") {
		t.Errorf("it said:\n%s", said.text.String())
	}
	store.syncing.Unlock()
	eventually(t, "it goes on", func() bool { return !dog.Stalled() })
	if err := stop(); err != nil {
		t.Error(err)
	}
}
