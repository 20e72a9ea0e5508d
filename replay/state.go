package replay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The saved state, drawn in docs/formats.md: one stateHead and, where exact,
// the index and all contexts; at the end a sum of everything before.
const (
	stateFile    = "replay.state"
	stateMagic   = "DFREPSTA"
	stateVersion = 1
	sumBytes     = 4
)

type stateHead struct {
	Magic   [8]byte
	Version uint32
	Exact   uint32 // 1 where an index follows

	Limiter LimiterState
	PCG     [20]byte // as rand.PCG marshals itself
	Length  uint32   // of sequences
	Number  uint64   // chunks inserted
	Floor   uint64   // of the reservoir

	Oldest, Newest              int64 // of the window
	Segments, Slots, Free, Heap uint32
}

type segmentState struct{ ID, Size uint64 }

// slotState is a slot: a free one where Segment is noSegment.
type slotState struct {
	Segment    uint64
	At         uint64
	Number     uint64
	Order      int64
	Floor      uint64 // of its stream
	Generation uint32
	Unused     uint32
}

type memberState struct {
	Key  uint64
	Slot uint32
}

const noSegment = 1<<64 - 1

// savedState is a state file's content.
type savedState struct {
	stateHead
	segments []segmentState
	slots    []slotState
	free     []uint32
	heap     []memberState
	contexts []byte // of every tenant in the order of slots, as in its record
}

// Save makes everything inserted durable and writes to the folder what Open
// needs beside the segments: limiter, samplers' random stream and counters,
// and for an exact resume the index and all contexts. The file is written
// aside and renamed.
func (s *Store) Save(dir string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.Sync(); err != nil {
		return fmt.Errorf("save replay: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save replay: %w", err)
	}
	path := filepath.Join(dir, stateFile)
	aside, err := os.CreateTemp(dir, stateFile+".*")
	if err != nil {
		return fmt.Errorf("save replay: %w", err)
	}
	if err = errors.Join(s.writeState(aside), aside.Sync(), aside.Close()); err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save replay to %s: %w", path, err), os.Remove(aside.Name()))
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("save replay to %s: %w", path, err)
	}
	s.mu.Lock()
	s.saves++
	s.mu.Unlock()
	return nil
}

func (s *Store) writeState(file io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.index
	head := stateHead{Version: stateVersion, Limiter: s.limiter.State(), Length: uint32(x.length), Number: s.number, Floor: x.reservoir.floor}
	copy(head.Magic[:], stateMagic)
	pcg, err := s.pcg.MarshalBinary()
	if err != nil {
		return err
	}
	copy(head.PCG[:], pcg)
	if s.cfg.Exact {
		head.Exact = 1
		head.Oldest, head.Newest = x.oldest, x.newest
		head.Segments, head.Slots = uint32(len(s.disk.segments)), uint32(len(x.slots))
		head.Free, head.Heap = uint32(len(x.free)), uint32(len(x.reservoir.heap))
	}
	buffered := bufio.NewWriterSize(file, 1<<20)
	sum := crc32.New(castagnoli)
	w := &putter{w: io.MultiWriter(buffered, sum)}
	w.put(&head)
	if s.cfg.Exact {
		s.writeIndex(w)
	}
	w.put(sum.Sum32())
	return errors.Join(w.err, buffered.Flush())
}

func (s *Store) writeIndex(w *putter) {
	for _, seg := range s.disk.segments {
		w.put(segmentState{seg.id, uint64(seg.size)})
	}
	for i := range s.index.slots {
		c := &s.index.slots[i]
		state := slotState{Segment: noSegment, Generation: c.generation}
		if c.stream != nil {
			state.Segment, state.At, state.Number = c.segment.id, uint64(c.at), c.number
			state.Order, state.Floor = c.order, c.stream.floor
		}
		w.put(state)
	}
	w.put(s.index.free)
	for _, m := range s.index.reservoir.heap {
		w.put(memberState{m.key, uint32(m.slot)})
	}
	for i := range s.index.slots {
		if c := &s.index.slots[i]; c.stream != nil {
			w.put(c.segment.data[c.at+recordFixed : c.at+s.index.shape.columns(int(c.steps), c.masked).obs])
		}
	}
}

// putter writes little-endian numbers until the first error.
type putter struct {
	w   io.Writer
	err error
}

func (p *putter) put(v any) {
	if p.err == nil {
		p.err = binary.Write(p.w, binary.LittleEndian, v)
	}
}

// readState reads the state in a folder, nil where there is none.
func readState(dir string) (*savedState, error) {
	path := filepath.Join(dir, stateFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	state, err := parseState(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return state, nil
}

// parseState reads a state file. Errors wrap ErrVersion or ErrCorrupt. That
// the index in it is sound is for restore to check.
func parseState(b []byte) (*savedState, error) {
	st := &savedState{}
	if len(b) < binary.Size(st.stateHead)+sumBytes || string(b[:8]) != stateMagic {
		return nil, fmt.Errorf("no saved state: %w", ErrCorrupt)
	}
	body, sum := b[:len(b)-sumBytes], binary.LittleEndian.Uint32(b[len(b)-sumBytes:])
	r := bytes.NewReader(body)
	if err := binary.Read(r, binary.LittleEndian, &st.stateHead); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if st.Version != stateVersion {
		return nil, fmt.Errorf("saved state has version %d, this program reads %d: %w", st.Version, stateVersion, ErrVersion)
	}
	if sum != crc32.Checksum(body, castagnoli) {
		return nil, fmt.Errorf("saved state does not have its sum: %w", ErrCorrupt)
	}
	if err := new(rand.PCG).UnmarshalBinary(st.PCG[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if st.Exact != 1 {
		return st, nil
	}
	for _, table := range []struct {
		n    uint32
		read func(n int) error
	}{
		{st.Segments, readTable(r, &st.segments)},
		{st.Slots, readTable(r, &st.slots)},
		{st.Free, readTable(r, &st.free)},
		{st.Heap, readTable(r, &st.heap)},
	} {
		if err := table.read(int(table.n)); err != nil {
			return nil, err
		}
	}
	st.contexts = body[len(body)-r.Len():]
	return st, nil
}

// readTable returns a reader of n values, which checks that so many are left
// before it makes room for them.
func readTable[T any](r *bytes.Reader, dst *[]T) func(n int) error {
	return func(n int) error {
		if int64(n)*int64(binary.Size(new(T))) > int64(r.Len()) {
			return fmt.Errorf("saved state ends early: %w", ErrCorrupt)
		}
		*dst = make([]T, n)
		if err := binary.Read(r, binary.LittleEndian, *dst); err != nil {
			return fmt.Errorf("%w: %w", err, ErrCorrupt)
		}
		return nil
	}
}
