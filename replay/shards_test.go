package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// shard is one of two replays of a run, at work.
type shard struct {
	store *Store
	bus   *protocol.Bus
	stop  func() error
}

func startShard(t *testing.T, server *protocol.Server, cfg Config, number int) *shard {
	t.Helper()
	s := &shard{store: openStore(t, cfg), bus: connect(t, server, protocol.RoleReplay)}
	divided(t, s.bus, number)
	s.stop = run(t, &Service{Store: s.store, Bus: s.bus, Log: hclog.NewNullLogger(), Shard: number, Shards: 2, SaveEvery: time.Hour})
	return s
}

func divided(t *testing.T, bus *protocol.Bus, number int) {
	t.Helper()
	if err := bus.Divide(2, number); err != nil {
		t.Fatal(err)
	}
}

// end stops the service and closes the store, as a process that ends does.
func (s *shard) end(t *testing.T) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Errorf("service ends with %v", err)
	}
	closeStore(t, s.store)
	s.bus.Close()
}

// actorOf is a name whose chunks belong to a shard of two.
func actorOf(number int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("a%d", i); protocol.ShardOf(name, 2) == number {
			return name
		}
	}
}

// Two replays share a run: each chunk is in exactly one, batches come from both in
// proportion to what they hold, contexts go back to where they are from, the limiter
// goes by both together, the learner goes on without one, and that resumes.
func TestTwoShards(t *testing.T) {
	const steps = 16
	server := startServer(t)
	configs := make([]Config, 2)
	shards := make([]*shard, 2)
	for i := range configs {
		configs[i] = testConfig(t.TempDir())
		configs[i].Limiter = LimiterConfig{Ratio: 1, MinSteps: 64, Budget: 1024, Shards: 2}
		shards[i] = startShard(t, server, configs[i], i)
	}
	learner, actors, old := connect(t, server, protocol.RoleLearner), connect(t, server, protocol.RoleActor), connect(t, server, protocol.RoleActor)
	divided(t, learner, 0)
	divided(t, actors, 0)
	remote, err := learner.RemoteReplay(protocol.BatchShape{Size: 8, Length: 32, ObsLen: testObs, Actions: testActions, ContextLen: testContext})
	if err != nil {
		t.Fatal(err)
	}

	// Three quarters of all steps are the first shard's.
	names := []string{actorOf(0), actorOf(1)}
	for i, chunks := range []uint64{30, 10} {
		for seq := range chunks {
			publish(t, actors, testChunk(names[i], uint32(2*i), seq, steps))
		}
	}
	publish(t, old, testChunk("old", 0, 0, steps)) // by a program that knows of no shards
	eventually(t, "each chunk is in one replay", func() bool {
		return shards[0].store.Stats().Chunks == 31 && shards[1].store.Stats().Chunks == 10
	})

	// Neither has inserted 1024 steps more than were sampled, nor would hold by itself.
	inserted := func(i int) uint64 { return shards[i].store.Stats().Inserted }
	if inserted(0)+inserted(1) != 41*steps {
		t.Errorf("%d and %d steps are inserted", inserted(0), inserted(1))
	}
	// The learner has heard of it, more than once: its batches go by what it heard last.
	var told atomic.Int32
	followed, end := context.WithCancel(t.Context())
	following := make(chan error, 1)
	go func() {
		following <- learner.FollowFlow(followed, func(f protocol.Flow) {
			if f.Steps == 41*steps && f.Inserts == 41*steps {
				told.Add(1)
			}
		})
	}()
	eventually(t, "the learner knows what the shards hold", func() bool { return told.Load() > 2 })
	end()
	if err := <-following; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var fromFirst, all int
	for range 40 {
		var b protocol.Batch
		if err := remote.Sample(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		checkShardedBatch(t, &b)
		for i := range b.Size {
			if b.Obs[i*b.Length*testObs+1] == 0 { // the environment's number
				fromFirst++
			}
			all++
		}
		if all == 8 {
			// Contexts go back to both.
			if err := remote.Refresh(t.Context(), &protocol.Refresh{Refs: b.Refs, Context: make([]float32, len(b.Refs)*testContext)}); err != nil {
				t.Fatal(err)
			}
			got := []uint64{shards[0].store.Stats().Refreshed, shards[1].store.Stats().Refreshed}
			if got[0] == 0 || got[1] == 0 || got[0]+got[1] != uint64(len(b.Refs)) {
				t.Errorf("%v contexts are refreshed of %d", got, len(b.Refs))
			}
		}
		if all == 48 { // 1536 of 592 + 1024 steps are sampled: what follows needs more inserted
			break
		}
	}
	if share := float64(fromFirst) / float64(all); share < 0.6 || share > 0.9 {
		t.Errorf("%.2f of the sequences are of the shard with three quarters of the steps", share)
	}
	sampled := shards[0].store.Stats().Sampled + shards[1].store.Stats().Sampled
	if sampled != uint64(all*32) {
		t.Errorf("%d steps are counted as sampled, %d were", sampled, all*32)
	}
	// The limiter goes by both: the second has sampled far less than its own budget, and
	// waits all the same.
	eventually(t, "both shards know what is sampled", func() bool {
		return limited(shards[0].store) && limited(shards[1].store)
	})
	for seq := range uint64(40) { // and inserts of one give leave to both
		publish(t, actors, testChunk(names[0], 0, 30+seq, steps))
	}
	eventually(t, "both give batches again", func() bool { return !limited(shards[0].store) && !limited(shards[1].store) })

	// Without the second the learner goes on with what the first holds.
	before := shards[1].store.Stats()
	shards[1].end(t)
	publish(t, actors, testChunk(names[1], 2, 10, steps)) // waits in the stream
	var b protocol.Batch
	if err := remote.Sample(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	checkShardedBatch(t, &b)

	// It comes back with what it had, and takes what has waited.
	shards[1] = startShard(t, server, configs[1], 1)
	eventually(t, "the second goes on", func() bool {
		st := shards[1].store.Stats()
		return st.Chunks == before.Chunks+1 && st.Inserted == before.Inserted+steps && st.Sampled == before.Sampled
	})
	if n := shards[1].bus.Stats().Consumed; n != 1 {
		t.Errorf("%d chunks were delivered again, want the new one", n)
	}
	for i, s := range shards {
		if d := s.bus.Stats(); d.Denied != 0 || len(d.DeadLettered) > 0 || s.store.Stats().Duplicates != 0 {
			t.Errorf("shard %d: %+v, %+v", i, d, s.store.Stats())
		}
		s.end(t)
	}
	for _, bus := range []*protocol.Bus{learner, actors, old} {
		if bus.Stats().Denied != 0 {
			t.Errorf("%+v", bus.Stats())
		}
	}
}

// limited reports whether the limiter gives no batch of 8 x 32.
func limited(s *Store) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.limiter.CanSample(8 * 32)
}

// checkShardedBatch checks that each sequence is of one stream, without a gap, and each
// reference inside the batch.
func checkShardedBatch(t *testing.T, b *protocol.Batch) {
	t.Helper()
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	for i := range b.Size {
		for s := 1; s < b.Length; s++ {
			at := (i*b.Length + s) * testObs
			if b.Obs[at] != b.Obs[at-testObs]+1 || b.Obs[at+1] != b.Obs[at-testObs+1] {
				t.Fatalf("sequence %d breaks at step %d", i, s)
			}
		}
	}
	sequences := map[uint32]bool{}
	for _, ref := range b.Refs {
		sequences[ref.Sequence] = true
	}
	if len(sequences) != b.Size {
		t.Errorf("%d of %d sequences have references: %v", len(sequences), b.Size, slices.Collect(func(yield func(uint32) bool) {
			for s := range sequences {
				if !yield(s) {
					return
				}
			}
		}))
	}
}

// The limiters of two shards decide as one limiter of both would.
func TestLimiterOfShards(t *testing.T) {
	cfg := LimiterConfig{Ratio: 2, MinSteps: 100, Budget: 64, Shards: 2}
	pair := make([]*Limiter, 2)
	for i := range pair {
		var err error
		if pair[i], err = NewLimiter(cfg, 16, 1000); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Shards = 1
	whole, err := NewLimiter(cfg, 16, 1000)
	if err != nil {
		t.Fatal(err)
	}
	tell := func() {
		pair[0].Others(pair[1].State())
		pair[1].Others(pair[0].State())
	}
	agree := func(when string) {
		t.Helper()
		tell()
		for i, l := range pair {
			if l.CanSample(16) != whole.CanSample(16) || l.Hold(0) != whole.Hold(0) {
				t.Errorf("%s: shard %d samples %v and holds %v, one replay %v and %v", when, i, l.CanSample(16), l.Hold(0), whole.CanSample(16), whole.Hold(0))
			}
		}
	}
	insert := func(i, steps int) { pair[i].Insert(steps); whole.Insert(steps) }
	sample := func(i, steps int) { pair[i].Sample(steps); whole.Sample(steps) }
	agree("at first")
	insert(0, 50)
	insert(1, 49)
	agree("before the first sample")
	insert(1, 1)
	agree("with the first steps")
	for range 4 {
		sample(0, 16)
		agree("while one shard samples")
	}
	for range 20 {
		insert(1, 4)
		agree("while the other inserts")
	}
	for range 20 {
		sample(1, 8)
		agree("while the other samples")
	}
}
