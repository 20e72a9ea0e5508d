package replay

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// exactConfig is one in which every part of the state matters.
func exactConfig(dir string) Config {
	cfg := testConfig(dir)
	cfg.Exact = true
	cfg.Capacity, cfg.Reservoir = 640, 200
	cfg.Mix = Mix{Uniform: 0.4, Recency: 0.3, Reservoir: 0.3, HalfLife: 100}
	cfg.Limiter = LimiterConfig{Ratio: 4, MinSteps: 64, Budget: 2048}
	return cfg
}

// drive is a lockstep run's share of the replay: rounds of inserting, sampling
// and refreshing that depend on nothing but the round and the batches.
func drive(t *testing.T, s *Store, from, to uint64) (batches []*protocol.Batch) {
	t.Helper()
	for round := from; round < to; round++ {
		for env := range uint32(2) {
			insert(t, s, testChunk("a", env, round, 16))
		}
		if round < 4 {
			continue
		}
		b := sample(t, s, 6, 20)
		batches = append(batches, b)
		r := &protocol.Refresh{Refs: b.Refs, Context: make([]float32, len(b.Refs)*testContext)}
		for i := range r.Context {
			r.Context[i] = float32(round) + float32(i)/1000
		}
		if _, err := s.Refresh(r); err != nil {
			t.Fatal(err)
		}
		if round%16 == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return batches
}

// A store opened on a saved state must go on as the one did that saved it,
// although that has gone on itself, evicted and moved chunks, and saved again.
func TestExactResume(t *testing.T) {
	dir := t.TempDir()
	cfg := exactConfig(filepath.Join(dir, "replay"))
	s := openStore(t, cfg)
	drive(t, s, 0, 90)
	if err := s.Save(filepath.Join(dir, "1")); err != nil {
		t.Fatal(err)
	}
	saved := s.Stats()
	want := drive(t, s, 90, 150)
	if err := s.Save(filepath.Join(dir, "2")); err != nil {
		t.Fatal(err)
	}
	want = append(want, drive(t, s, 150, 170)...)
	end := s.Stats()
	if end.Moved == saved.Moved || end.Evicted < saved.Evicted+40 {
		t.Fatalf("nothing moved or evicted between the states: %+v, %+v", saved, end)
	}
	closeStore(t, s)

	// The last but one, as where the last checkpoint turned out incomplete.
	for range 2 {
		cfg.State = filepath.Join(dir, "1")
		s = openStore(t, cfg)
		got := s.Stats()
		if got.Steps != saved.Steps || got.Inserted != saved.Inserted || got.Sampled != saved.Sampled || got.Balance != saved.Balance || got.Evicted != saved.Evicted {
			t.Fatalf("resumed %+v, saved %+v", got, saved)
		}
		naive(t, s.index)
		batches := drive(t, s, 90, 170)
		for i := range want {
			if !reflect.DeepEqual(batches[i], want[i]) {
				t.Fatalf("batch %d after resuming is another", i)
			}
		}
		if again := s.Stats(); again.Inserted != end.Inserted || again.Sampled != end.Sampled || again.Balance != end.Balance {
			t.Fatalf("resumed run ends with %+v, the first with %+v", again, end)
		}
		closeStore(t, s)
	}

	// Files of evicted chunks go once two states do without them.
	cfg.State = filepath.Join(dir, "1")
	s = openStore(t, cfg)
	drive(t, s, 90, 200)
	before := len(segmentFiles(t, cfg.Dir))
	for range 2 {
		if err := s.Save(filepath.Join(dir, "3")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if after := len(segmentFiles(t, cfg.Dir)); after >= before || after != len(s.disk.segments) {
		t.Errorf("%d segment files before two saves, %d after, %d in use", before, after, len(s.disk.segments))
	}
	closeStore(t, s)
	if _, err := Open(cfg, hclog.NewNullLogger()); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "no longer where it was") {
		t.Errorf("a state whose segments are gone: %v", err)
	}
}

// Outside lockstep what was stored since the save is kept and counted; samples
// since then are not.
func TestResumeKeepsNewerChunks(t *testing.T) {
	cfg := exactConfig(t.TempDir())
	cfg.Exact = false
	s := openStore(t, cfg)
	drive(t, s, 0, 50)
	if err := s.Save(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	saved := s.Stats()
	drive(t, s, 50, 60)
	before := s.Stats()
	members := memberNumbers(s)
	closeStore(t, s)

	s = openStore(t, cfg)
	after := s.Stats()
	if after.Inserted != before.Inserted || after.Steps != before.Steps || after.Evicted != before.Evicted ||
		after.Sampled != saved.Sampled || after.Balance != saved.Balance+10*2*16*4 {
		t.Errorf("resumed %+v; saved %+v, then %+v", after, saved, before)
	}
	if !reflect.DeepEqual(memberNumbers(s), members) {
		t.Error("the reservoir is another after a restart")
	}
	drive(t, s, 60, 70)
}

func TestSavedStateRefusals(t *testing.T) {
	dir := t.TempDir()
	cfg := exactConfig(dir)
	s := openStore(t, cfg)
	drive(t, s, 0, 6)
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseState(data); err != nil {
		t.Fatal(err)
	}
	for at := range data {
		data[at] ^= 1
		if _, err := parseState(data); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
		data[at] ^= 1
		if _, err := parseState(data[:at]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", at, err)
		}
	}
	// A state that is whole, of an index that cannot be: each field of slots,
	// free list and reservoir is changed somewhere.
	state, err := parseState(data)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	end := len(data) - sumBytes - len(state.contexts)
	for at := binary.Size(stateHead{}) - 32; at < end; at += 20 {
		forged := append([]byte{}, data...)
		forged[at]++
		reseal(forged)
		if err := os.WriteFile(path, forged, 0o644); err != nil {
			t.Fatal(err)
		}
		// Opening cuts segments back to the state: work on a copy.
		trial := cfg
		trial.Dir, trial.State = t.TempDir(), dir
		copyFiles(t, dir, trial.Dir)
		s, err := Open(trial, hclog.NewNullLogger())
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d forged: %v", at, err)
			}
			refused++
			continue
		}
		naive(t, s.index) // a generation or a floor may be anything
		sample(t, s, 6, 20)
		closeStore(t, s)
	}
	if refused < 8 {
		t.Errorf("only %d forged states were refused", refused)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Exact = false
	s = openStore(t, cfg)
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	cfg.Exact = true
	if _, err := Open(cfg, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "exact resume") {
		t.Errorf("an exact resume from another state: %v", err)
	}
}

func reseal(state []byte) {
	body := state[:len(state)-sumBytes]
	binary.LittleEndian.PutUint32(state[len(body):], crc32.Checksum(body, castagnoli))
}

// A save that cannot be finished leaves the last one as it was.
func TestSaveIsAtomic(t *testing.T) {
	s := openStore(t, testConfig(t.TempDir()))
	dir := filepath.Join(t.TempDir(), "state")
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(filepath.Join(dir, "x")); err == nil {
		t.Error("saved into a file")
	}
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, stateFile, "y"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(blocked); err == nil {
		t.Error("saved over a folder")
	}
	if entries, err := os.ReadDir(blocked); err != nil || len(entries) != 1 {
		t.Errorf("a failed save leaves %v, %v", entries, err)
	}
}

func FuzzParseState(f *testing.F) {
	s, err := Open(exactConfig(f.TempDir()), hclog.NewNullLogger())
	if err != nil {
		f.Fatal(err)
	}
	for seq := range uint64(60) {
		if _, err := s.Insert(testChunk("a", 0, seq, 16)); err != nil {
			f.Fatal(err)
		}
	}
	dir := f.TempDir()
	if err := errors.Join(s.Save(dir), s.Close()); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= sumBytes {
			reseal(data)
		}
		state, err := parseState(data)
		if err != nil {
			return
		}
		// Whatever a state says, it is refused or makes a sound index.
		x := newIndex(440, 16, reservoir{seed: 1, capacity: 200})
		x.shape = shape{testObs, testActions, testStride, testContext}
		seg := &segment{size: 1 << 30}
		find := map[segmentState]stored{}
		for n, slot := range state.slots {
			find[segmentState{slot.Segment, slot.At}] = stored{record{number: slot.Number, seq: uint64(n), actor: "a", steps: 16, size: 8}, seg, int(slot.At)}
		}
		if state.Length > 1<<16 || x.restore(state, find) != nil || x.windowSteps > x.limit || x.reservoir.overfull() {
			return
		}
		naive(t, x)
		if x.starts() > 0 {
			x.draw(Mix{Uniform: 0.5, Reservoir: 0.5}, rand.New(rand.NewPCG(1, 1)))
		}
	})
}

func FuzzScan(f *testing.F) {
	sh := shape{testObs, testActions, testStride, testContext}
	segment := appendSegmentHeader(nil, sh, "run")
	segment = appendRecord(segment, testChunk("a", 1, 0, 8), 0, 0)
	f.Add(appendRecord(segment, testChunk("b", 0, 3, 5), 1, 8), uint16(0))
	f.Add(segment, uint16(48))
	f.Fuzz(func(t *testing.T, fuzzed []byte, fix uint16) {
		data := make([]byte, align(len(fuzzed))) // aligned, as a mapping is
		copy(data, fuzzed)
		// Make the sums of one header right, for the fuzzer cannot.
		if at := int(fix) &^ 7; at+recordFixed <= len(data) {
			binary.LittleEndian.PutUint32(data[at+4:], headerSum(data[at:]))
		}
		sh, _, header, err := parseSegmentHeader(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			sh, header = shape{testObs, testActions, testStride, testContext}, 0
		}
		last := header
		end, damaged, damagedBytes := scan(data, header, sh, func(at int, r record) {
			if at < last || r.steps < 1 || sh.columns(r.steps, r.masked).end+len(r.actor) > r.size || at+r.size > len(data) {
				t.Fatalf("record %+v at %d after %d", r, at, last)
			}
			last = at + r.size
		})
		if end != last || damagedBytes < damaged || damagedBytes > end-header {
			t.Fatalf("end %d, want %d; %d damaged of %d bytes", end, last, damaged, damagedBytes)
		}
	})
}
