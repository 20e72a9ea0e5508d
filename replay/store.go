package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Config is what a Store needs to know. Batch and Length are those of the
// learner's usual Sample.
type Config struct {
	Dir   string // folder of the segments, created if need be
	State string // folder of the saved state to go on from; empty: Dir
	Run   string // whose chunks are stored, see protocol.ValidName

	Capacity  int // steps kept, reservoir included
	Reservoir int // of these, steps of the reservoir; 0: none
	Mix       Mix
	Limiter   LimiterConfig
	Batch     int    // sequences of a batch
	Length    int    // steps of a sequence
	Seed      uint64 // of the samplers and the reservoir

	// Exact makes Open go back to the saved state as it was, forgetting what
	// was inserted since, so that a run resumed from it goes the same way to
	// the byte. It costs a copy of all recurrent contexts in every saved state,
	// and disk for what was evicted since the last but one.
	Exact bool

	// ReadOnly samples from a replay without changing anything on disk: what is
	// torn is passed over, refreshed contexts stay in memory, nothing can be
	// inserted, and a sample does not wait for the limiter.
	ReadOnly bool

	Now      func() time.Time // clock of the waiting reports; nil: time.Now
	Patience time.Duration    // waiting for so long is reported, and again each time; default 1 min
}

// Store is the replay buffer: chunks on disk, an index of them in memory. It
// is safe for concurrent use.
type Store struct {
	cfg Config
	log hclog.Logger

	// Locks are taken in this order. Whoever appends to the log or saves holds
	// writing; whoever syncs holds syncing; mu guards everything below it and
	// the access to mapped records, and is never held during a sync.
	writing sync.Mutex
	buffer  []byte // a record under construction, guarded by writing
	syncing sync.Mutex
	mu      sync.Mutex

	disk     chunkLog
	index    *index
	limiter  *Limiter
	pcg      *rand.PCG
	rng      *rand.Rand
	number   uint64        // chunks inserted so far
	saves    uint64        // states saved so far
	failed   error         // why the store can no longer be used, if it cannot
	holding  bool          // what changed last told
	incoming uint64        // steps on their way to be inserted
	wake     chan struct{} // closed when waiting samples should look again; nil: nobody waits
	changed  chan struct{}

	// Of the batch being filled; they are kept for their memory.
	pieces  []piece
	ahead   []*byte // read before the pieces are copied
	touched byte    // sum of them, lest reading be left out

	patience patience // of waiting samples
	stats    Stats
}

// Open opens or creates the replay in cfg.Dir. It reads and checks all that is
// on disk, cuts a torn tail off the newest segment, skips damaged records, and
// says so in the log and in Stats. An error names the setting or the file that
// does not fit. With cfg.ReadOnly the disk is left as it is.
func Open(cfg Config, log hclog.Logger) (*Store, error) {
	if err := cfg.fill(); err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	limiter, err := NewLimiter(cfg.Limiter, cfg.Batch*cfg.Length, cfg.Capacity)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	pcg := rand.NewPCG(cfg.Seed, 0x7265706c6179) // a stream of its own: "replay"
	s := &Store{
		cfg: cfg, log: log, limiter: limiter, pcg: pcg, rng: rand.New(pcg),
		disk:    chunkLog{dir: cfg.Dir, segmentSteps: cfg.Capacity/segmentsPerWindow + 1},
		index:   newIndex(cfg.Capacity-cfg.Reservoir, cfg.Length, reservoir{seed: cfg.Seed, capacity: cfg.Reservoir}),
		changed: make(chan struct{}, 1),
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("replay in %s: %w", cfg.Dir, err), s.disk.close())
	}
	s.holding = s.hold()
	return s, nil
}

func (c *Config) fill() error {
	if c.State == "" {
		c.State = c.Dir
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Patience == 0 {
		c.Patience = time.Minute
	}
	switch {
	case binary.NativeEndian.Uint16([]byte{1, 0}) != 1:
		return errors.New("this machine is big-endian and the replay's files are not")
	case c.Dir == "":
		return errors.New("folder is not set")
	case !protocol.ValidName(c.Run):
		return fmt.Errorf("run is %q, which is no valid name", c.Run)
	case c.Batch < 1 || c.Length < 1:
		return fmt.Errorf("batch is %d sequences of %d steps: at least 1 of 1", c.Batch, c.Length)
	case c.Capacity < c.Batch*c.Length:
		return fmt.Errorf("capacity is %d steps: at least a batch, %d", c.Capacity, c.Batch*c.Length)
	case c.Reservoir < 0 || c.Reservoir > c.Capacity/2:
		return fmt.Errorf("reservoir is %d steps: from 0 to half of the capacity, %d", c.Reservoir, c.Capacity/2)
	}
	if err := c.Mix.check(c.Reservoir); err != nil {
		return err
	}
	if c.ReadOnly {
		return nil
	}
	return os.MkdirAll(c.Dir, 0o755)
}

// Fits returns an error that wraps ErrShape where chunks are stored and have
// another shape than these widths. New ones would all be refused.
func (s *Store) Fits(obsLen, actions, stride, contextLen int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := (shape{obsLen, actions, stride, contextLen}); s.disk.header != nil && s.index.shape != want {
		return fmt.Errorf("replay in %s has %v, the run's settings make %v: choose another folder or another name for the run: %w",
			s.cfg.Dir, s.index.shape, want, ErrShape)
	}
	return nil
}

// Insert stores a chunk and reports whether it did: one that is stored already,
// or that is older than what the window still has of its stream, is dropped and
// counted as a duplicate. It can be sampled at once and survives a power cut
// once Sync has returned. A chunk of another run or another shape than those
// stored gives an error that wraps ErrShape.
func (s *Store) Insert(c *protocol.Chunk) (inserted bool, err error) {
	if err := c.Validate(); err != nil {
		return false, fmt.Errorf("insert: %w", err)
	}
	return s.insert(c)
}

// insert is Insert of a chunk that is known to be valid.
func (s *Store) insert(c *protocol.Chunk) (inserted bool, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if fresh, err := s.admit(c); !fresh || err != nil {
		return false, err
	}
	// Only holders of writing change what is read here without mu.
	s.buffer = appendRecord(s.buffer[:0], c, s.number, s.limiter.state.Inserted)
	s.mu.Lock()
	seg, err := s.disk.room(len(s.buffer))
	s.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("insert: %w", err)
	}
	at, err := seg.append(s.buffer, c.Steps)
	if err != nil {
		return false, fmt.Errorf("insert: %w", err)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.disk.wrote(seg, len(s.buffer))
	s.index.add(record{
		number: s.number, seq: c.Seq, version: c.ParamVersion, env: c.Env, actor: c.Actor, task: c.Task,
		steps: c.Steps, masked: c.Mask != nil, size: len(s.buffer),
	}, seg, at)
	s.number++
	s.limiter.Insert(c.Steps)
	s.awaken()
	s.tell()
	if err := s.clean(); err != nil {
		s.log.Warn("segments could not be cleaned, trying again with the next chunk", "error", err)
	}
	return true, nil
}

// admit tells whether a chunk is to be stored. The first one decides the shape.
func (s *Store) admit(c *protocol.Chunk) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return false, s.failed
	case s.cfg.ReadOnly:
		return false, errors.New("insert: the replay was opened to be read only")
	case c.Run != s.cfg.Run:
		return false, fmt.Errorf("insert: chunk of run %s into the replay of %s: %w", c.Run, s.cfg.Run, ErrShape)
	case s.disk.header == nil:
		s.setShape(shapeOf(c))
	case shapeOf(c) != s.index.shape:
		return false, fmt.Errorf("insert: chunk has %v, the replay has %v: %w", shapeOf(c), s.index.shape, ErrShape)
	case s.index.has(c.Actor, c.Env, c.Seq):
		s.stats.Duplicates++
		return false, nil
	}
	return true, nil
}

func (s *Store) setShape(sh shape) {
	s.index.shape = sh
	s.disk.header = appendSegmentHeader(nil, sh, s.cfg.Run)
}

// clean retires segments that are empty, and moves the chunks out of those
// that the window has left and that are more than half empty: the reservoir's
// members would otherwise pin every segment ever written. A member is moved
// about once for each window of steps that passes.
func (s *Store) clean() error {
	for _, seg := range slices.Clone(s.disk.segments) {
		if seg.window > 0 || seg == s.disk.active || seg.chunks > 0 && 2*seg.liveBytes >= seg.size {
			continue
		}
		if err := s.empty(seg); err != nil {
			return fmt.Errorf("clean segment %d: %w", seg.id, err)
		}
		if err := s.disk.retire(seg, s.saves); err != nil {
			return fmt.Errorf("retire segment %d: %w", seg.id, err)
		}
	}
	return nil
}

// empty moves the live chunks of a segment to the log's end.
func (s *Store) empty(seg *segment) error {
	for _, m := range s.index.reservoir.heap {
		c := &s.index.slots[m.slot]
		if c.segment != seg {
			continue
		}
		to, err := s.disk.room(c.size)
		if err != nil {
			return err
		}
		at, err := to.append(seg.data[c.at:c.at+c.size], int(c.steps))
		if err != nil {
			return err
		}
		s.disk.wrote(to, c.size)
		seg.leave(c.size)
		to.enter(c.size)
		c.segment, c.at = to, at
		s.stats.Moved++
	}
	return nil
}

// Sync makes durable what was inserted before, and then removes files that
// are no longer needed. After an error nothing more can be inserted, since
// what the system has of the file is not known any more.
func (s *Store) Sync() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	dirty, old := s.disk.dirty, s.disk.retired
	s.disk.dirty, s.disk.retired = nil, nil
	saves, err := s.saves, s.failed
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, seg := range dirty {
		if err := seg.file.Sync(); err != nil {
			return s.fail(fmt.Errorf("sync %s: %w", seg.path, err))
		}
	}
	var keep []retired
	var freed int64
	var removed []error
	for _, r := range old {
		// A state refers to what was live when it was saved. The last but one
		// still counts: the last may turn out to be part of a checkpoint that
		// was never finished.
		if s.cfg.Exact && saves < r.saves+2 {
			keep = append(keep, r)
			continue
		}
		removed = append(removed, r.remove())
		freed += int64(r.segment.size)
	}
	if len(dirty) > 0 || len(removed) > 0 {
		if err := syncDir(s.cfg.Dir); err != nil {
			return s.fail(fmt.Errorf("sync %s: %w", s.cfg.Dir, err))
		}
	}
	s.mu.Lock()
	s.disk.retired = append(keep, s.disk.retired...)
	s.disk.bytes -= freed
	s.mu.Unlock()
	return errors.Join(removed...)
}

func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	s.awaken()
	return s.failed
}

// Sample fills dst with size sequences of length steps each, waiting until the
// limiter allows so many and until a sequence so long is stored. Waiting is
// reported to the log after each Config.Patience. A batch over the limiter's
// budget is refused. Nothing is allocated once dst has its size, and a length
// that differs from the last one's costs a walk over the index.
func (s *Store) Sample(ctx context.Context, dst *protocol.Batch, size, length int) error {
	if size < 1 || length < 1 || size > s.cfg.Limiter.Budget/length {
		return fmt.Errorf("sample: batch is %d sequences of %d steps: at least 1 of 1, at most %d steps, the limiter's budget", size, length, s.cfg.Limiter.Budget)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.await(ctx, size*length, length); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	s.limiter.Sample(size * length)
	s.fill(dst, size, length)
	s.tell()
	return nil
}

// await waits, with mu held before and after, until a sample is possible.
func (s *Store) await(ctx context.Context, steps, length int) error {
	for {
		if s.failed != nil {
			return s.failed
		}
		if s.index.length != length {
			s.index.setLength(length)
		}
		why := ""
		if !s.cfg.ReadOnly {
			why = s.limiter.Waiting(steps)
		}
		if why == "" && s.index.starts() == 0 {
			why = fmt.Sprintf("for a sequence of %d steps: %d steps are stored and no stream has so many in a row", length, s.index.steps)
		}
		if why == "" {
			s.patience.over()
			return nil
		}
		if s.cfg.ReadOnly {
			return fmt.Errorf("it would wait for ever %s", why)
		}
		if waited, say := s.patience.waiting(s.cfg.Now(), s.cfg.Patience); say {
			s.log.Warn("sampling waits", "since", waited, "for", why)
		}
		if s.wake == nil {
			s.wake = make(chan struct{})
		}
		wake := s.wake
		s.tell() // another length may have left nothing to start from
		s.mu.Unlock()
		timer := time.NewTimer(min(time.Second, s.cfg.Patience))
		var err error
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
		timer.Stop()
		s.mu.Lock()
		if err != nil {
			return fmt.Errorf("while waiting %s: %w", why, err)
		}
	}
}

// awaken has those who wait to sample look again.
func (s *Store) awaken() {
	if s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
}

// tell wakes Changed where the hold is another than it told last.
func (s *Store) tell() {
	if hold := s.hold(); hold != s.holding {
		s.holding = hold
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

// hold is the limiter's, off as long as no sequence can be sampled: samples
// would wait for inserts and inserts for samples.
func (s *Store) hold() bool {
	return s.limiter.Hold(s.incoming) && (s.index.starts() > 0 || s.incoming > 0)
}

// Incoming tells how many steps are on their way to be inserted, as far as is
// known: the hold counts them, or actors that are faster than the bus would
// have sent far too many by the time the first arrive.
func (s *Store) Incoming(steps uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.incoming = steps
	s.tell()
}

// Others takes in what the other shards of the run have inserted, and the sum of their
// limiters' balances: holding and sampling go by all together.
func (s *Store) Others(inserted uint64, balance float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limiter.Others(LimiterState{Inserted: inserted, Balance: balance})
	s.awaken()
	s.tell()
}

// Hold reports whether inserts are ahead of samples, so that actors should
// stop, and what they wait for.
func (s *Store) Hold() (hold bool, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hold() {
		return false, ""
	}
	return true, s.limiter.Holding(s.incoming)
}

// Err returns why the store can no longer be used, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Changed receives after Hold's answer has changed.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Refresh overwrites context rows in place and reports how many. Rows whose
// slot has another tenant meanwhile are left alone and counted as missed.
func (s *Store) Refresh(r *protocol.Refresh) (applied int, err error) {
	if err := r.Validate(); err != nil {
		return 0, fmt.Errorf("refresh: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return 0, s.failed
	}
	width := s.index.shape.contextLen
	if len(r.Context) != len(r.Refs)*width {
		return 0, fmt.Errorf("refresh: %d numbers for %d contexts of %d: %w", len(r.Context), len(r.Refs), width, ErrShape)
	}
	for i, ref := range r.Refs {
		if int64(ref.Slot) >= int64(len(s.index.slots)) {
			continue
		}
		c := &s.index.slots[ref.Slot]
		if c.stream == nil || c.generation != ref.Generation || int64(ref.Row) >= int64(s.index.shape.rows(int(c.steps))) {
			continue
		}
		b := c.segment.data[c.at : c.at+c.size]
		b[offsetRefreshed] = 1 // from here on the context's sum does not hold
		copy(floats(b, recordFixed+4*int(ref.Row)*width, width), r.Context[i*width:])
		applied++
	}
	s.stats.Refreshed += uint64(applied)
	s.stats.RefreshMissed += uint64(len(r.Refs) - applied)
	return applied, nil
}

// Close ends the use of the store; waiting samples return ErrClosed. It does
// not save: what is on disk stays, and Save makes the rest last.
func (s *Store) Close() error {
	syncErr := s.Sync()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.failed, ErrClosed) {
		return nil
	}
	s.failed = ErrClosed
	s.awaken()
	return errors.Join(syncErr, s.disk.close())
}

// Stats is a snapshot of the store and its counters since Open.
type Stats struct {
	Steps, Chunks  int     // stored
	ReservoirSteps int     // of these, in the reservoir
	Starts         int     // places to start a sequence from, in the window
	Streams        int     // of which chunks are stored
	Segments       int     // files
	Bytes          int64   // of all files
	BytesPerStep   float64 // Bytes by steps stored
	IndexBytes     int64   // of memory that the index takes, estimated

	Inserted, Sampled uint64  // steps in the whole run
	Balance           float64 // of the limiter, see there
	Hold              bool    // inserts are ahead
	Incoming          uint64  // steps in the stream that are not inserted yet, as far as is known

	Evicted       uint64 // chunks inserted in the whole run and no longer stored
	Duplicates    uint64 // chunks dropped as stored already
	Moved         uint64 // chunks moved to let their segment go
	Refreshed     uint64 // context rows written back
	RefreshMissed uint64 // context rows whose slot was reused meanwhile

	TornBytes                    int // cut off the newest segment at Open
	DamagedRecords, DamagedBytes int // stretches skipped at Open
}

// Stats returns a snapshot.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, x := s.stats, s.index
	st.Steps, st.Chunks, st.ReservoirSteps = x.steps, len(x.chunks), x.reservoir.steps
	st.Starts, st.Streams, st.Segments = x.recent.total, len(x.streams), len(s.disk.segments)+len(s.disk.retired)
	st.Bytes = s.disk.bytes
	if x.steps > 0 {
		st.BytesPerStep = float64(st.Bytes) / float64(x.steps)
	}
	// Go's maps take about twice their entries.
	st.IndexBytes = int64(cap(x.slots)*int(unsafe.Sizeof(slot{})) + 4*(cap(x.free)+len(x.window)+x.recent.bins()+x.retained.bins()) +
		cap(x.reservoir.heap)*int(unsafe.Sizeof(member{})) + 2*len(x.chunks)*int(unsafe.Sizeof(chunkKey{})+4) + 256*len(x.streams))
	st.Inserted, st.Sampled, st.Balance = s.limiter.state.Inserted, s.limiter.state.Sampled, s.limiter.state.Balance
	st.Hold, st.Incoming = s.hold(), s.incoming
	st.Evicted = s.number - uint64(st.Chunks)
	return st
}

// BytesPerStep is what a stored step costs on disk, files' overhead and
// evicted steps not yet given back included.
func (s *Store) BytesPerStep() float64 { return s.Stats().BytesPerStep }
