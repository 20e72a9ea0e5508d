package protocol_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// ttl is short, so that tests are, and long enough for a busy machine to renew in.
const ttl = time.Second

func learnerAt(t *testing.T, url, name string) *protocol.Bus {
	return connect(t, protocol.BusConfig{URL: url, Role: protocol.RoleLearner, Name: name, LeaseTTL: ttl})
}

// lease is what is stored.
type lease struct {
	Epoch    uint64
	Holder   string
	Released bool
	Finished bool
}

func stored(t *testing.T, url string) (l lease) {
	t.Helper()
	_, js := raw(t, url)
	kv, err := js.KeyValue(t.Context(), "cfg")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "park.lease")
	if err == nil {
		err = json.Unmarshal(entry.Value(), &l)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// put writes a record over whatever is there.
func put(t *testing.T, url, key, value string) {
	t.Helper()
	_, js := raw(t, url)
	kv, err := js.KeyValue(t.Context(), "cfg")
	if err == nil {
		_, err = kv.PutString(t.Context(), key, value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// One learner leads; the next does when it is released, or silent.
func TestOneLearnerLeads(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	a, b := learnerAt(t, s.URL(), "a"), learnerAt(t, s.URL(), "b")
	first := take(t, a)
	epoch := stored(t, s.URL()).Epoch
	if _, err := b.TakeLease(t.Context(), false); !errors.Is(err, protocol.ErrLeaseHeld) || !strings.Contains(err.Error(), "process") {
		t.Errorf("a second learner is not told who leads: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*ttl)
	defer cancel()
	if _, err := b.TakeLease(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a standby does not wait: %v", err)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !stored(t, s.URL()).Released {
		t.Error("the lease is not released")
	}
	take(t, b)
	second := stored(t, s.URL())
	if second.Epoch <= epoch || second.Released {
		t.Errorf("after epoch %d: %+v", epoch, second)
	}
	b.Close() // renews no more
	c := learnerAt(t, s.URL(), "c")
	if _, err := c.TakeLease(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if third := stored(t, s.URL()); third.Epoch <= second.Epoch || third.Holder == second.Holder {
		t.Errorf("after %+v: %+v", second, third)
	}
}

// Who waits for a leader that finishes the run has nothing to do; who comes later leads, with a larger
// budget for instance.
func TestFinishedLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	first := take(t, learnerAt(t, s.URL(), "a"))
	b := learnerAt(t, s.URL(), "b")
	waited := make(chan error, 1)
	go func() {
		_, err := b.TakeLease(t.Context(), true)
		waited <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 2*ttl)
	defer cancel()
	select {
	case err := <-waited:
		t.Fatalf("it does not wait: %v", err)
	case <-ctx.Done():
	}
	if err := first.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, protocol.ErrFinished) {
		t.Errorf("who waited is told %v", err)
	}
	if l := stored(t, s.URL()); !l.Released || !l.Finished {
		t.Errorf("the lease is %+v", l)
	}
	take(t, b)
	if l := stored(t, s.URL()); l.Released || l.Finished {
		t.Errorf("taken again, the lease is %+v", l)
	}
}

// A leader that another has replaced finds out, and may do nothing more.
func TestLostLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := learnerAt(t, s.URL(), "a")
	l := take(t, b)
	c, err := l.NewBroadcaster()
	if err != nil {
		t.Fatal(err)
	}
	send(t, c, 1)
	if err := l.PutCheckpoint(t.Context(), 1, strings.NewReader("one"), 1); err != nil {
		t.Fatal(err)
	}
	next := fmt.Sprintf(`{"epoch":%d,"holder":"another"}`, stored(t, s.URL()).Epoch+1)
	put(t, s.URL(), "park.lease", next)
	if err := l.Await(t.Context()); !errors.Is(err, protocol.ErrLeaseLost) || !strings.Contains(err.Error(), "another") {
		t.Errorf("got %v", err)
	}
	if err := c.Publish(t.Context(), 2, params(2)); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("published: %v", err)
	}
	if err := l.PutCheckpoint(t.Context(), 2, strings.NewReader("two"), 1); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("stored a checkpoint: %v", err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if got := stored(t, s.URL()); got.Holder != "another" || got.Released {
		t.Errorf("%+v is not what the other has written", got)
	}
	// Who joins now takes nothing of the old epoch, whoever sends it.
	nc, _ := raw(t, s.URL())
	late := follow(t, connect(t, protocol.BusConfig{URL: s.URL()}))
	eventually(t, "a late joiner refuses the old epoch and takes the new one", func() bool {
		old, current := stored(t, s.URL()).Epoch-1, stored(t, s.URL()).Epoch
		for i := range 3 {
			if nc.PublishMsg(frame(old, 3, i, params(3))) != nil || nc.PublishMsg(frame(current, 1, i, params(1))) != nil {
				return false
			}
		}
		return late.at(1)()
	})
	if got := late.count.Load(); got != 1 {
		t.Errorf("%d versions were taken", got)
	}
}

// The pointer to the newest checkpoint does not go back to that of an older leader,
// even where it has not found out yet.
func TestCheckpointPointerIsFenced(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := learnerAt(t, s.URL(), "a")
	l := take(t, b)
	put(t, s.URL(), "park.checkpoint", "park/000000000003-00ab00cd") // of a version without epochs
	if version, err := b.NewestCheckpoint(t.Context()); err != nil || version != 3 {
		t.Errorf("version %d, %v", version, err)
	}
	if err := l.PutCheckpoint(t.Context(), 4, strings.NewReader("four"), 1); err != nil {
		t.Fatal(err)
	}
	put(t, s.URL(), "park.checkpoint", fmt.Sprintf("park/000000000004-%d-00ab00cd", stored(t, s.URL()).Epoch+1))
	if err := l.PutCheckpoint(t.Context(), 5, strings.NewReader("five"), 1); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("got %v", err)
	}
	if version, err := b.NewestCheckpoint(t.Context()); err != nil || version != 4 {
		t.Errorf("version %d, %v", version, err)
	}
	put(t, s.URL(), "park.checkpoint", "park/x-1-2")
	if _, err := b.NewestCheckpoint(t.Context()); !errors.Is(err, protocol.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// A server that is away for longer than the lease lasts costs the leader nothing, nor
// does one that comes back empty.
func TestLeaseOutlivesTheServer(t *testing.T) {
	t.Parallel()
	cfg := protocol.ServerConfig{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"}
	s := startServer(t, cfg)
	cfg.Listen = strings.TrimPrefix(s.URL(), "nats://")
	url := s.URL()
	b := learnerAt(t, url, "a")
	l := take(t, b)
	c, err := l.NewBroadcaster()
	if err != nil {
		t.Fatal(err)
	}
	follower := follow(t, connect(t, protocol.BusConfig{URL: url}))
	send(t, c, 1)
	eventually(t, "parameters arrive", follower.at(1))
	epoch := stored(t, url).Epoch
	for version, store := range []string{cfg.StoreDir, t.TempDir()} {
		s.Close()
		ran, cancel := context.WithTimeout(t.Context(), 2*ttl)
		if err := l.Await(ran); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the lease is lost to nobody: %v", err)
		}
		cancel()
		cfg.StoreDir = store
		s = startServer(t, cfg)
		version := uint64(version + 2)
		eventually(t, "parameters arrive again", func() bool {
			if follower.at(version)() {
				return true
			}
			// Refused as a repetition once it was kept, and then fetched.
			_ = c.Publish(t.Context(), version, params(version))
			return false
		})
		eventually(t, "the lease is there", func() bool {
			_, js := raw(t, url)
			kv, err := js.KeyValue(t.Context(), "cfg")
			if err != nil {
				return false
			}
			_, err = kv.Get(t.Context(), "park.lease")
			return !errors.Is(err, jetstream.ErrKeyNotFound)
		})
		if got := stored(t, url); got.Epoch != epoch || got.Released {
			t.Errorf("%+v, the epoch was %d", got, epoch)
		}
	}
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// A lease that cannot be read is an error that says so, and no reason to lead.
func TestDamagedLease(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := learnerAt(t, s.URL(), "a")
	for _, value := range []string{"{", `{"epoch":0}`, `{"epoch":-1}`, strings.Repeat(" ", 2000)} {
		put(t, s.URL(), "park.lease", value)
		if _, err := b.TakeLease(t.Context(), true); !errors.Is(err, protocol.ErrCorrupt) && !errors.Is(err, protocol.ErrTooLarge) {
			t.Errorf("%.20q: got %v", value, err)
		}
	}
}

// Servers that have lost their store are set up again by those who are there: streams
// with their bounds, and the configuration, which nobody else can change for long.
func TestStoreIsLost(t *testing.T) {
	t.Parallel()
	cfg := protocol.ServerConfig{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"}
	s := startServer(t, cfg)
	url := s.URL()
	cfg.Listen = strings.TrimPrefix(url, "nats://")
	learner := connect(t, protocol.BusConfig{URL: url, Role: protocol.RoleLearner, LeaseTTL: ttl, ConfigCheck: 10 * time.Millisecond})
	l := take(t, learner)
	if err := learner.PutConfig(t.Context(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return l.KeepConfig(ctx, []byte("one")) })
	replay := connect(t, protocol.BusConfig{URL: url, Role: protocol.RoleReplay})
	if err := replay.BoundTrajectories(t.Context(), 64<<20, time.Hour); err != nil {
		t.Fatal(err)
	}
	var got received
	background(t, func(ctx context.Context) error {
		return replay.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	actor := connect(t, protocol.BusConfig{URL: url, Role: protocol.RoleActor})
	mustPublish(t, actor, chunk(1))
	eventually(t, "the first chunk arrives", got.is(1))
	configured := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), ttl)
		defer cancel()
		have, err := actor.GetConfig(ctx)
		return err == nil && string(have) == "one"
	}

	put(t, url, "park.config", "another")
	eventually(t, "the leader's configuration is back", configured)

	s.Close()
	cfg.StoreDir = t.TempDir()
	startServer(t, cfg)
	eventually(t, "the chunk can be sent again", func() bool { return publish(t, actor, chunk(2)) == nil })
	eventually(t, "the second chunk arrives", got.is(1, 2))
	eventually(t, "the configuration is back", configured)
	_, js := raw(t, url)
	stream, err := js.Stream(t.Context(), "TRAJ")
	if err != nil {
		t.Fatal(err)
	}
	if bound := stream.CachedInfo().Config.MaxBytes; bound != 64<<20 {
		t.Errorf("the stream was made again with a bound of %d bytes", bound)
	}
}

// A lease is released although the answer to its last renewal was lost.
func TestReleaseAfterALostAnswer(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	l := take(t, connect(t, protocol.BusConfig{URL: s.URL(), Role: protocol.RoleLearner, LeaseTTL: time.Minute})) // renewed late
	have := stored(t, s.URL())
	put(t, s.URL(), "park.lease", fmt.Sprintf(`{"epoch":%d,"holder":%q}`, have.Epoch, have.Holder))
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if !stored(t, s.URL()).Released {
		t.Error("the lease is not released")
	}
}
