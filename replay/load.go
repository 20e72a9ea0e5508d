package replay

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// stored is a good record found on disk.
type stored struct {
	record
	segment *segment
	at      int
}

// load rebuilds the store from its folders.
func (s *Store) load() error {
	lock, err := lockDir(s.cfg.Dir)
	if err != nil {
		return err
	}
	s.disk.lock = lock
	state, err := readState(s.cfg.State)
	if err != nil {
		return err
	}
	records, err := s.readSegments()
	if err != nil {
		return err
	}
	if s.cfg.Exact {
		err = s.rollBack(state, records)
	} else {
		err = s.rebuild(state, records)
	}
	if err != nil {
		return err
	}
	if !s.cfg.ReadOnly {
		// What a process that was killed had written and not synced is read from
		// the system's memory here. Its chunks come again, are dropped as stored,
		// and acknowledged after the next Sync.
		s.disk.dirty = slices.Clone(s.disk.segments)
	}
	st := s.Stats()
	s.log.Info("replay is open", "steps", st.Steps, "chunks", st.Chunks, "bytes_per_step", st.BytesPerStep)
	if st.TornBytes > 0 || st.DamagedRecords > 0 {
		s.log.Warn("replay had damage", "torn_bytes", st.TornBytes, "damaged_records", st.DamagedRecords, "damaged_bytes", st.DamagedBytes)
	}
	return nil
}

// readSegments maps all segments and scans them, several at a time.
func (s *Store) readSegments() ([]stored, error) {
	ids, err := segmentIDs(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	found := make([]segmentScan, len(ids))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, id := range ids {
		group.Go(func() (err error) {
			found[i], err = s.readSegment(id)
			return err
		})
	}
	err = group.Wait()
	for _, f := range found {
		if f.segment != nil { // after an error too: they are to be closed
			s.disk.segments = append(s.disk.segments, f.segment)
		}
	}
	if err != nil {
		return nil, err
	}
	var records []stored
	for i, f := range found {
		s.disk.next = ids[i] + 1
		if err := s.keep(f, i == len(found)-1); err != nil {
			return nil, fmt.Errorf("%s: %w", f.segment.path, err)
		}
		records = append(records, f.records...)
	}
	return records, nil
}

// segmentScan is what one segment file holds.
type segmentScan struct {
	segment      *segment
	shape        shape
	headless     bool // its header is damaged
	end          int  // of the last good record
	damaged      int  // stretches before that
	damagedBytes int
	records      []stored
}

func (s *Store) readSegment(id uint64) (segmentScan, error) {
	seg, err := openSegment(s.cfg.Dir, id, s.cfg.ReadOnly)
	if err != nil {
		return segmentScan{}, err
	}
	f := segmentScan{segment: seg}
	sh, run, header, err := parseSegmentHeader(seg.data)
	switch {
	case errors.Is(err, ErrCorrupt):
		f.headless = true
		return f, nil
	case err != nil:
		return f, fmt.Errorf("%s: %w", seg.path, err)
	case run != s.cfg.Run:
		return f, fmt.Errorf("%s holds chunks of run %s and this is run %s: %w", seg.path, run, s.cfg.Run, ErrShape)
	}
	f.shape = sh
	f.end, f.damaged, f.damagedBytes = scan(seg.data, header, sh, func(at int, r record) {
		f.records = append(f.records, stored{r, seg, at})
	})
	return f, nil
}

// keep takes a scanned segment into the log. What is bad at the end of the
// newest one was being written when the process or the machine stopped, and is
// cut off; all other damage is stepped over.
func (s *Store) keep(f segmentScan, newest bool) error {
	tail := f.segment.size - f.end
	s.disk.bytes += int64(f.segment.size)
	s.stats.DamagedRecords += f.damaged
	s.stats.DamagedBytes += f.damagedBytes
	if tail > 0 && newest {
		s.stats.TornBytes = tail
		s.disk.bytes -= int64(tail)
		if err := f.segment.truncate(f.end); err != nil {
			return err
		}
	} else if tail > 0 {
		s.stats.DamagedRecords++
		s.stats.DamagedBytes += tail
	}
	switch {
	case f.headless:
	case s.disk.header == nil:
		s.setShape(f.shape)
	case f.shape != s.index.shape:
		return fmt.Errorf("segment has %v, the replay has %v: %w", f.shape, s.index.shape, ErrCorrupt)
	}
	return nil
}

// rebuild enters all that is on disk in the order in which it was inserted,
// which makes the index what it was, and takes from the saved state what the
// segments do not tell. Steps inserted since the state was saved count as
// such; samples since then are those that a learner resumed from its own last
// checkpoint will do again.
func (s *Store) rebuild(state *savedState, records []stored) error {
	if state != nil {
		if err := s.resume(state); err != nil {
			return err
		}
	}
	// Of the copies of a chunk that was being moved the newest counts.
	slices.SortFunc(records, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(b.segment.id, a.segment.id))
	})
	inserted := s.limiter.state.Inserted
	for _, r := range records {
		if !s.index.has(r.actor, r.env, r.seq) {
			s.index.add(r.record, r.segment, r.at)
		}
		s.number = max(s.number, r.number+1)
		inserted = max(inserted, r.before+uint64(r.steps))
	}
	s.limiter.Insert(int(inserted - s.limiter.state.Inserted))
	if s.cfg.ReadOnly {
		return nil
	}
	return s.clean()
}

// resume continues limiter, random stream and counters.
func (s *Store) resume(state *savedState) error {
	if err := s.limiter.Restore(state.Limiter); err != nil {
		return err
	}
	s.number = state.Number
	return s.pcg.UnmarshalBinary(state.PCG[:])
}

// rollBack makes the store what it was when the state was saved. What was
// inserted since is forgotten, on disk too. Records without a state are an
// error: all would be forgotten because a file was not found.
func (s *Store) rollBack(state *savedState, records []stored) error {
	if state == nil {
		if len(records) > 0 {
			return fmt.Errorf("%d chunks are stored and %s has no %s to say how far the run had come: name the folder that has it, or remove the chunks to begin anew",
				len(records), s.cfg.State, stateFile)
		}
		state = &savedState{}
	} else {
		if state.Exact != 1 {
			return fmt.Errorf("saved state in %s is not one for an exact resume", s.cfg.State)
		}
		if err := s.resume(state); err != nil {
			return err
		}
	}
	sizes := map[uint64]uint64{}
	for _, seg := range state.segments {
		sizes[seg.ID] = seg.Size
	}
	find := map[segmentState]stored{}
	for _, r := range records {
		if uint64(r.at+r.size) <= sizes[r.segment.id] {
			find[segmentState{r.segment.id, uint64(r.at)}] = r
		}
	}
	if err := s.index.restore(state, find); err != nil {
		return fmt.Errorf("saved state in %s: %w", s.cfg.State, err)
	}
	if !s.cfg.ReadOnly {
		if err := s.cutBack(sizes); err != nil {
			return err
		}
	}
	contexts := state.contexts
	for i := range s.index.slots {
		c := &s.index.slots[i]
		if c.stream == nil {
			continue
		}
		b := c.segment.data[c.at : c.at+c.size]
		to := b[recordFixed:s.index.shape.columns(int(c.steps), c.masked).obs]
		if len(contexts) < len(to) {
			return fmt.Errorf("saved state in %s has too few contexts: %w", s.cfg.State, ErrCorrupt)
		}
		b[offsetRefreshed] = 1
		contexts = contexts[copy(to, contexts):]
	}
	return nil
}

// cutBack takes from the disk what came after the saved segments, of these
// sizes by id. Older segments than these stay until two more states are saved.
func (s *Store) cutBack(saved map[uint64]uint64) error {
	newest := uint64(0)
	for id := range saved {
		newest = max(newest, id)
	}
	for _, seg := range slices.Clone(s.disk.segments) {
		size, known := saved[seg.id]
		switch {
		case known && uint64(seg.size) > size:
			s.disk.bytes -= int64(seg.size) - int64(size)
			if err := seg.truncate(int(size)); err != nil {
				return err
			}
		case !known && seg.id < newest:
			if err := s.disk.retire(seg, s.saves); err != nil {
				return err
			}
		case !known:
			s.disk.segments = slices.DeleteFunc(s.disk.segments, func(other *segment) bool { return other == seg })
			s.disk.bytes -= int64(seg.size)
			if err := errors.Join(os.Remove(seg.path), seg.close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore makes an empty index that of a saved state, whose tenants find knows
// by where they are. Errors wrap ErrCorrupt.
func (x *index) restore(state *savedState, find map[segmentState]stored) error {
	corrupt := func(what string) error { return fmt.Errorf("%s: %w", what, ErrCorrupt) }
	if state.Newest-state.Oldest < 0 || state.Newest-state.Oldest > int64(len(state.slots)) || state.Oldest < 0 {
		return corrupt("window of impossible size")
	}
	window := make([]int32, state.Newest-state.Oldest)
	for i := range window {
		window[i] = none
	}
	for i, saved := range state.slots {
		id := x.take()
		x.slots[id].generation = saved.Generation
		if saved.Segment == noSegment {
			continue
		}
		r, ok := find[segmentState{saved.Segment, saved.At}]
		if !ok || r.number != saved.Number {
			return corrupt(fmt.Sprintf("chunk %d is no longer where it was", saved.Number))
		}
		x.place(id, r.record, r.segment, r.at)
		x.slots[id].stream.floor = saved.Floor
		if saved.Order == none {
			continue
		}
		at := saved.Order - state.Oldest
		if at < 0 || at >= int64(len(window)) || window[at] != none {
			return corrupt(fmt.Sprintf("slot %d has no place in the window", i))
		}
		window[at] = id
	}
	x.oldest, x.newest = state.Oldest, state.Oldest
	for _, id := range window {
		if id == none {
			return corrupt("window has a gap")
		}
		x.push(id)
	}
	for _, m := range state.heap {
		if int64(m.Slot) >= int64(len(x.slots)) || x.slots[m.Slot].stream == nil || x.slots[m.Slot].kept {
			return corrupt(fmt.Sprintf("slot %d cannot be in the reservoir", m.Slot))
		}
		s := &x.slots[m.Slot]
		s.kept = true
		x.reservoir.heap = append(x.reservoir.heap, member{m.Key, int32(m.Slot)})
		x.reservoir.steps += int(s.steps)
	}
	free := make([]bool, len(x.slots))
	for _, id := range state.free {
		if int64(id) >= int64(len(x.slots)) || x.slots[id].stream != nil || free[id] {
			return corrupt(fmt.Sprintf("slot %d cannot be free", id))
		}
		free[id] = true
		x.free = append(x.free, int32(id))
	}
	for id, s := range x.slots {
		if !free[id] && s.order == none && !s.kept {
			return corrupt(fmt.Sprintf("slot %d is neither free nor of use", id))
		}
	}
	x.reservoir.floor = state.Floor
	for id := range x.slots {
		if x.slots[id].stream != nil {
			x.link(int32(id))
		}
	}
	if state.Length > 0 {
		x.setLength(int(state.Length))
	}
	return nil
}
