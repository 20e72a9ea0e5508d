package replay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func TestSampleAcrossChunks(t *testing.T) {
	const steps = 10
	s := openStore(t, testConfig(t.TempDir()))
	for seq := range uint64(12) {
		for env := range uint32(3) {
			insert(t, s, testChunk("a", env, seq, steps))
		}
	}
	seen := map[float32]bool{}
	for _, length := range []int{1, 7, 10, 16, 64, 120} {
		b := sample(t, s, 32, length)
		checkBatch(t, b, steps)
		for i := range b.Size {
			seen[b.Reward[i*length]] = true
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d different starts in 192 sequences", len(seen))
	}
	if st := s.Stats(); st.Steps != 360 || st.Chunks != 36 || st.Streams != 3 || st.Sampled != 32*(1+7+10+16+64+120) || st.Inserted != 360 {
		t.Errorf("stats %+v", st)
	}
	if _, err := os.Stat(segmentFiles(t, s.cfg.Dir)[0]); err != nil {
		t.Error(err)
	}
}

func TestSequencesNeverSpanGaps(t *testing.T) {
	const steps = 8
	s := openStore(t, testConfig(t.TempDir()))
	insert(t, s, testChunk("a", 0, 0, steps), testChunk("a", 0, 1, steps), testChunk("a", 0, 3, steps))
	for range 20 {
		b := sample(t, s, 4, 12) // only steps 0 and 4 start 12 steps in a row
		checkBatch(t, b, steps)
	}
	if st := s.Stats(); st.Starts != 2 {
		t.Errorf("%d starts, want 2", st.Starts)
	}
	insert(t, s, testChunk("a", 0, 2, steps)) // late
	if st := s.Stats(); st.Starts != 6 {
		t.Errorf("%d starts once the gap is filled, want 6", st.Starts)
	}
	checkBatch(t, sample(t, s, 8, 32), steps)
}

func TestInsertRefusals(t *testing.T) {
	s := openStore(t, testConfig(t.TempDir()))
	insert(t, s, testChunk("a", 0, 0, 8))
	if inserted, err := s.Insert(testChunk("a", 0, 0, 8)); inserted || err != nil {
		t.Errorf("a duplicate: %v, %v", inserted, err)
	}
	other := testChunk("a", 0, 1, 8)
	other.Run = "other"
	if _, err := s.Insert(other); !errors.Is(err, ErrShape) {
		t.Errorf("a chunk of another run: %v", err)
	}
	wide := testChunk("a", 0, 1, 8)
	wide.ContextLen, wide.Context = 1, wide.Context[:2]
	if _, err := s.Insert(wide); !errors.Is(err, ErrShape) || !strings.Contains(err.Error(), "contexts of 1") {
		t.Errorf("a chunk of another shape: %v", err)
	}
	broken := testChunk("a", 0, 1, 8)
	broken.Obs = broken.Obs[1:]
	if _, err := s.Insert(broken); !errors.Is(err, protocol.ErrCorrupt) {
		t.Errorf("a corrupt chunk: %v", err)
	}
	if st := s.Stats(); st.Chunks != 1 || st.Duplicates != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestConfigRefusals(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"folder":               func(c *Config) { c.Dir = "" },
		"run is":               func(c *Config) { c.Run = "a b" },
		"batch is":             func(c *Config) { c.Length = 0 },
		"capacity is 63":       func(c *Config) { c.Capacity = 63 },
		"reservoir is":         func(c *Config) { c.Reservoir = 6000 },
		"fractions":            func(c *Config) { c.Mix = Mix{} },
		"error budget is 63":   func(c *Config) { c.Limiter.Budget = 63 },
		"before the first sam": func(c *Config) { c.Limiter.MinSteps = 10_001 },
	} {
		cfg := testConfig(t.TempDir())
		change(&cfg)
		if _, err := Open(cfg, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	s := openStore(t, testConfig(t.TempDir()))
	if _, err := Open(s.cfg, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "another replay") {
		t.Errorf("a folder in use: %v", err)
	}
}

func TestEvictionAndLateRefs(t *testing.T) {
	const steps = 16
	cfg := testConfig(t.TempDir())
	cfg.Capacity = 320
	s := openStore(t, cfg)
	insert(t, s, testChunk("a", 0, 0, steps), testChunk("a", 0, 1, steps))
	old := sample(t, s, 4, 16)
	for seq := range uint64(200) {
		insert(t, s, testChunk("a", 2, seq, steps))
	}
	r := &protocol.Refresh{Refs: old.Refs, Context: make([]float32, len(old.Refs)*testContext)}
	if applied, err := s.Refresh(r); applied != 0 || err != nil {
		t.Errorf("refreshing evicted chunks: %d, %v", applied, err)
	}
	checkBatch(t, sample(t, s, 64, 32), steps)
	if inserted, err := s.Insert(testChunk("a", 2, 5, steps)); inserted || err != nil {
		t.Errorf("an evicted chunk again: %v, %v", inserted, err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if st.Steps != 320 || st.Evicted != 182 || st.RefreshMissed != uint64(len(old.Refs)) {
		t.Errorf("stats %+v", st)
	}
	if files := segmentFiles(t, cfg.Dir); len(files) > segmentsPerWindow+2 || len(files) != st.Segments {
		t.Errorf("%d segment files, stats say %d", len(files), st.Segments)
	}
	closeStore(t, s)
	s = openStore(t, cfg)
	if again := s.Stats(); again.Steps != 320 || again.Inserted != 202*steps || again.Evicted != 182 {
		t.Errorf("stats after a restart %+v", again)
	}
	checkBatch(t, sample(t, s, 64, 32), steps)
}

func TestRefresh(t *testing.T) {
	const steps = 16
	cfg := testConfig(t.TempDir())
	s := openStore(t, cfg)
	insert(t, s, testChunk("a", 0, 0, steps), testChunk("a", 0, 1, steps))
	b := sample(t, s, 1, 32)
	if len(b.Refs) != 8 {
		t.Fatalf("%d refs, want 8", len(b.Refs))
	}
	fresh := &protocol.Refresh{Refs: append([]protocol.Ref{}, b.Refs...), Context: make([]float32, 8*testContext)}
	for i := range fresh.Context {
		fresh.Context[i] = float32(100 + i)
	}
	fresh.Refs[6].Generation++
	fresh.Refs[5].Row = 4
	fresh.Refs[7].Slot = 1 << 30
	if applied, err := s.Refresh(fresh); applied != 5 || err != nil {
		t.Fatalf("applied %d, %v; want 5", applied, err)
	}
	check := func() {
		t.Helper()
		for range 50 {
			b := sample(t, s, 1, 4)
			ref, want := int(b.Reward[0])/testStride, b.Reward[0]
			if ref < 5 {
				want = float32(100 + ref*testContext)
			}
			if b.Context[0] != want {
				t.Fatalf("context of step %v is %v, want %v first", b.Reward[0], b.Context, want)
			}
		}
	}
	check()
	for _, bad := range []*protocol.Refresh{
		{Refs: b.Refs, Context: make([]float32, 8)},
		{Refs: b.Refs[:1], Context: []float32{1, 2}},
	} {
		if _, err := s.Refresh(bad); !errors.Is(err, ErrShape) {
			t.Errorf("a refresh of another width: %v", err)
		}
	}
	closeStore(t, s)
	s = openStore(t, cfg)
	check()
	if st := s.Stats(); st.DamagedRecords != 0 || st.TornBytes != 0 {
		t.Errorf("refreshed contexts were taken for damage: %+v", st)
	}
}

func TestReservoirOutlivesWindowOnBoundedDisk(t *testing.T) {
	const steps = 16
	cfg := testConfig(t.TempDir())
	cfg.Capacity, cfg.Reservoir, cfg.Mix = 1600, 800, Mix{Reservoir: 1}
	s := openStore(t, cfg)
	var record int64
	for seq := range uint64(400) {
		insert(t, s, testChunk("a", 1, seq, steps))
		if seq == 0 {
			record = s.Stats().Bytes
		}
		if seq%64 == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(moved bool) Stats {
		t.Helper()
		oldest := float32(1e9)
		for range 20 {
			b := sample(t, s, 16, 16)
			checkBatch(t, b, steps)
			for i := range b.Size {
				oldest = min(oldest, b.Reward[i*16])
			}
		}
		if oldest > 400*steps/4 {
			t.Errorf("the oldest step of 320 sequences is %v: the reservoir has only new ones", oldest)
		}
		st := s.Stats()
		if st.ReservoirSteps != 800 || st.Steps > 1600 || moved != (st.Moved > 0) {
			t.Errorf("stats %+v", st)
		}
		return st
	}
	before := check(true)
	if limit := 200 * record; before.Bytes > limit {
		t.Errorf("%d bytes on disk for 100 chunks of at most %d, want at most %d", before.Bytes, record, limit)
	}

	// As after a power cut in the middle of everything: a copy of the files.
	crashed := cfg
	crashed.Dir = t.TempDir()
	for i := range uint64(50) { // leaves moved and retired chunks unsynced
		insert(t, s, testChunk("a", 1, 400+i, steps))
	}
	copyFiles(t, cfg.Dir, crashed.Dir)
	before = s.Stats()
	members := memberNumbers(s)
	closeStore(t, s)
	for _, c := range []Config{cfg, crashed} {
		s = openStore(t, c)
		if after := check(false); after.Steps != before.Steps || after.Chunks != before.Chunks || after.Inserted != before.Inserted {
			t.Errorf("after a restart %+v, before %+v", after, before)
		}
		if got := memberNumbers(s); !reflect.DeepEqual(got, members) {
			t.Errorf("the reservoir is another after a restart")
		}
	}
}

func memberNumbers(s *Store) map[uint64]bool {
	numbers := map[uint64]bool{}
	for _, m := range s.index.reservoir.heap {
		numbers[s.index.slots[m.slot].number] = true
	}
	return numbers
}

func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// whole writes a small replay of chunks of one stream and returns its only
// segment's content and where its records end.
func whole(t *testing.T, dir string, chunks int) (path string, data []byte, ends []int) {
	t.Helper()
	s := openStore(t, testConfig(dir))
	ends = append(ends, len(appendSegmentHeader(nil, shape{}, "run")))
	for seq := range uint64(chunks) {
		insert(t, s, testChunk("a", 1, seq, 4))
		ends = append(ends, s.disk.active.size)
	}
	closeStore(t, s)
	path = segmentFiles(t, dir)[0]
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, data, ends
}

// The machine may stop after any byte: what was whole is there again, the rest
// is cut off and reported, and the replay goes on.
func TestTornTailAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	path, data, ends := whole(t, dir, 2)
	for _, garbage := range []bool{false, true} {
		for cut := range len(data) {
			torn := append([]byte{}, data[:cut]...)
			if garbage { // a file extended before its data was written
				torn = append(torn, make([]byte, len(data)-cut)...)
			}
			if err := os.WriteFile(path, torn, 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := Open(testConfig(dir), hclog.NewNullLogger())
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			whole, end := 0, 0
			for i, e := range ends {
				// The last bytes of a record are padding and the task's name.
				if e <= cut || garbage && bytes.Equal(torn[:e], data[:e]) {
					whole, end = i, e
				}
			}
			st := s.Stats()
			if st.Chunks != whole || st.TornBytes != len(torn)-end || st.DamagedRecords != 0 {
				t.Fatalf("cut at %d of %v: %+v, want %d chunks and %d bytes torn", cut, ends, st, whole, len(torn)-end)
			}
			if cut%32 == 0 {
				insert(t, s, testChunk("a", 1, uint64(whole), 4))
			}
			if cut%32 == 0 || whole > 0 {
				checkBatch(t, sample(t, s, 4, 4), 4)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, file := range segmentFiles(t, dir) {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// Any one byte may be flipped: at most one record is lost for it, none is
// wrong, and the loss is reported.
func TestDamageAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	path, data, ends := whole(t, dir, 3)
	for at := ends[0]; at < len(data); at++ {
		data[at] ^= 0x5a
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		data[at] ^= 0x5a
		s, err := Open(testConfig(dir), hclog.NewNullLogger())
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		st := s.Stats()
		lost := 3 - st.Chunks
		reported := st.DamagedRecords
		if st.TornBytes > 0 {
			reported++
		}
		// The one field that changes in place is under no sum.
		refreshed := (at - ends[0]) % (ends[1] - ends[0])
		if free := refreshed >= offsetRefreshed && refreshed < recordFixed; free && lost != 0 || !free && lost != 1 || reported != lost {
			t.Fatalf("byte %d flipped: %d records lost, %+v", at, lost, st)
		}
		checkBatch(t, sample(t, s, 8, 4), 4)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenRefusesForeignSegments(t *testing.T) {
	dir := t.TempDir()
	path, data, _ := whole(t, dir, 1)
	foreign := testConfig(dir)
	foreign.Run = "other"
	if _, err := Open(foreign, hclog.NewNullLogger()); !errors.Is(err, ErrShape) || !strings.Contains(err.Error(), "run run") {
		t.Errorf("another run's segments: %v", err)
	}
	data[16]++
	binary.LittleEndian.PutUint32(data[8:], crc32.Checksum(data[12:48], castagnoli))
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(dir), hclog.NewNullLogger()); !errors.Is(err, ErrVersion) {
		t.Errorf("another version's segments: %v", err)
	}
	if err := os.Rename(path, filepath.Join(dir, "x"+segmentSuffix)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(dir), hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "x.segment") {
		t.Errorf("a file that is no segment: %v", err)
	}
}

func TestSampleWaitsAndReports(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Limiter = LimiterConfig{Ratio: 1, MinSteps: 32, Budget: 64}
	cfg.Patience = 10 * time.Millisecond
	var mu sync.Mutex
	now := time.Unix(0, 0)
	cfg.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(7 * time.Millisecond)
		return now
	}
	var said lockedBuffer
	s, err := Open(cfg, hclog.New(&hclog.LoggerOptions{Output: &said}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	if err := s.Sample(t.Context(), &protocol.Batch{}, 5, 16); err == nil || !strings.Contains(err.Error(), "budget") {
		t.Errorf("a batch over the budget: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Sample(ctx, &protocol.Batch{}, 4, 16); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "0 of the first 32") {
		t.Errorf("a sample given up: %v", err)
	}

	b := &protocol.Batch{}
	done := make(chan error, 1)
	go func() { done <- s.Sample(t.Context(), b, 4, 16) }()
	eventually(t, "a report of waiting for the first steps", func() bool { return said.contains("0 of the first 32 are there") })
	for env := range uint32(4) {
		insert(t, s, testChunk("a", env, 0, 8))
	}
	eventually(t, "a report of waiting for a sequence", func() bool {
		return said.contains("for a sequence of 16 steps: 32 steps are stored and no stream has so many in a row")
	})
	if hold, _ := s.Hold(); hold {
		t.Error("actors are held while nothing can be sampled")
	}
	insert(t, s, testChunk("a", 2, 1, 8))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkBatch(t, b, 8)
}

func TestHold(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Limiter = LimiterConfig{Ratio: 2, MinSteps: 16, Budget: 64}
	s := openStore(t, cfg)
	for seq := range uint64(7) {
		insert(t, s, testChunk("a", 0, seq, 8))
	}
	if hold, reason := s.Hold(); !hold || reason != "for 16 more steps to be sampled: inserts are ahead of 2 samples per insert" {
		t.Errorf("hold %v %q", hold, reason)
	}
	<-s.Changed()
	sample(t, s, 1, 16)
	if hold, reason := s.Hold(); hold || reason != "" {
		t.Errorf("hold %v %q after enough samples", hold, reason)
	}
	<-s.Changed()
}

func TestCloseEndsWaiting(t *testing.T) {
	s := openStore(t, testConfig(t.TempDir()))
	done := make(chan error)
	go func() { done <- s.Sample(context.Background(), &protocol.Batch{}, 1, 1) }()
	eventually(t, "a sample waits", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.wake != nil })
	closeStore(t, s)
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("sample: %v", err)
	}
	if _, err := s.Insert(testChunk("a", 0, 0, 8)); !errors.Is(err, ErrClosed) {
		t.Errorf("insert: %v", err)
	}
	if _, err := s.Refresh(&protocol.Refresh{}); !errors.Is(err, ErrClosed) {
		t.Errorf("refresh: %v", err)
	}
	if err := s.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("sync: %v", err)
	}
	if err := s.Save(t.TempDir()); !errors.Is(err, ErrClosed) {
		t.Errorf("save: %v", err)
	}
}

// After a failed sync nobody knows what the disk has: nothing more is taken.
func TestFailedSyncIsFinal(t *testing.T) {
	s, err := Open(testConfig(t.TempDir()), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	insert(t, s, testChunk("a", 0, 0, 8))
	if err := s.disk.active.file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); !errors.Is(err, ErrFailed) || !errors.Is(err, os.ErrClosed) {
		t.Errorf("sync: %v", err)
	}
	if _, err := s.Insert(testChunk("a", 0, 1, 8)); !errors.Is(err, ErrFailed) {
		t.Errorf("insert: %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
}

func TestSampleDoesNotAllocate(t *testing.T) {
	s := openStore(t, testConfig(t.TempDir()))
	for seq := range uint64(20) {
		insert(t, s, testChunk("a", 1, seq, 16))
	}
	b := sample(t, s, 16, 32)
	for range 20 { // refs find their size
		if err := s.Sample(t.Context(), b, 16, 32); err != nil {
			t.Fatal(err)
		}
	}
	r := &protocol.Refresh{Refs: append([]protocol.Ref{}, b.Refs...), Context: make([]float32, len(b.Refs)*testContext)}
	if n := testing.AllocsPerRun(100, func() {
		if err := s.Sample(t.Context(), b, 16, 32); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Refresh(r); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a sample", n)
	}
}

// All at once, while chunks are evicted, moved and saved; every batch sampled
// must be made of whole chunks. The values of contexts are left alone: the
// refreshes write what was there.
func TestConcurrentUse(t *testing.T) {
	const steps, envs, seqs = 16, 3, 80
	cfg := testConfig(t.TempDir())
	cfg.Capacity, cfg.Reservoir, cfg.Mix = 1200, 400, Mix{Uniform: 0.4, Recency: 0.3, Reservoir: 0.3, HalfLife: 200}
	s := openStore(t, cfg)
	var inserts, others sync.WaitGroup
	for env := range uint32(envs) {
		inserts.Go(func() {
			for seq := range uint64(seqs) {
				if _, err := s.Insert(testChunk("a", env, seq, steps)); err != nil {
					t.Error(err)
				}
				if seq%32 == uint64(env) {
					if err := s.Sync(); err != nil {
						t.Error(err)
					}
				}
				if seq == 40 {
					if err := s.Save(cfg.Dir); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	loop := func(f func() error) {
		others.Go(func() {
			for ctx.Err() == nil {
				if err := f(); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for _, length := range []int{16, 24} {
		b := &protocol.Batch{}
		loop(func() error {
			if err := s.Sample(ctx, b, 8, length); err != nil {
				return err
			}
			checkBatch(t, b, steps)
			r := &protocol.Refresh{}
			for _, ref := range b.Refs {
				if ref.Step == 0 {
					r.Refs = append(r.Refs, ref)
					r.Context = append(r.Context, b.Context[ref.Sequence*testContext:(ref.Sequence+1)*testContext]...)
				}
			}
			_, err := s.Refresh(r)
			return err
		})
	}
	loop(func() error { s.Stats(); s.Hold(); return nil })
	inserts.Wait()
	cancel()
	others.Wait()
	before := s.Stats()
	closeStore(t, s)
	after := openStore(t, cfg).Stats()
	if before.Inserted != envs*seqs*steps || after.Inserted != before.Inserted || after.Steps != before.Steps || after.Chunks != before.Chunks {
		t.Errorf("before %+v, after a restart %+v", before, after)
	}
}

// lockedBuffer is a log that may be looked at while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

// Chunks of a killed process that were not synced are read back from the system's
// memory; when they come again the next Sync makes them durable before they are
// acknowledged.
func TestWhatIsReadBackIsSyncedAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s := openStore(t, cfg)
	for seq := range uint64(3) {
		insert(t, s, testChunk("a", 0, seq, 16))
	}
	killed := cfg
	killed.Dir = t.TempDir()
	copyFiles(t, cfg.Dir, killed.Dir)
	again := openStore(t, killed)
	if inserted, err := again.Insert(testChunk("a", 0, 2, 16)); inserted || err != nil {
		t.Fatalf("a chunk that is stored: inserted %v, %v", inserted, err)
	}
	synced := 0
	for _, seg := range again.disk.dirty {
		if slices.Contains(again.disk.segments, seg) {
			synced++
		}
	}
	if synced == 0 || synced != len(again.disk.segments) {
		t.Errorf("the next sync covers %d of %d segments", synced, len(again.disk.segments))
	}
	if err := again.Sync(); err != nil || len(again.disk.dirty) > 0 {
		t.Errorf("after it %d are left, %v", len(again.disk.dirty), err)
	}
}

func TestFits(t *testing.T) {
	s := openStore(t, testConfig(t.TempDir()))
	if err := s.Fits(1, 2, 3, 4); err != nil {
		t.Errorf("an empty replay: %v", err)
	}
	insert(t, s, testChunk("a", 0, 0, 16))
	if err := s.Fits(testObs, testActions, testStride, testContext); err != nil {
		t.Error(err)
	}
	if err := s.Fits(testObs, testActions, testStride, testContext+1); !errors.Is(err, ErrShape) {
		t.Errorf("another context: %v", err)
	}
}
