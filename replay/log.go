package replay

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// chunkLog is the folder of segment files: where records are appended, and
// which files have yet to be made durable or removed. The caller's locks guard
// it.
type chunkLog struct {
	dir          string
	lock         *os.File // of the folder: one process at a time
	header       []byte   // of new segments; nil until the shape is known
	segmentSteps int      // at which a segment is full

	segments []*segment // mapped, the oldest first
	active   *segment   // takes the next record; nil: a new one will
	next     uint64     // id of the next segment
	dirty    []*segment // written since the last sync
	retired  []retired  // hold no live chunk, to be removed from the disk
	bytes    int64      // of all files, retired ones included
}

// retired is a segment that may be removed once what was moved out of it is
// durable and no saved state refers to it.
type retired struct {
	segment *segment
	saves   uint64 // states saved by then
}

// room returns the segment that takes a record of so many bytes next: the
// active one, or a new one where that is full.
func (l *chunkLog) room(size int) (*segment, error) {
	if size += len(l.header); size > maxSegment {
		return nil, fmt.Errorf("chunk needs %d bytes and a segment has %d: %w", size, maxSegment, ErrShape)
	}
	if a := l.active; a != nil && a.size+size <= maxSegment && a.steps < l.segmentSteps {
		return a, nil
	}
	s, err := createSegment(l.dir, l.next, l.header)
	if err != nil {
		return nil, fmt.Errorf("new segment: %w", err)
	}
	l.next++
	l.active = s
	l.segments = append(l.segments, s)
	l.bytes += int64(s.size)
	return s, nil
}

// wrote keeps account of a record appended to a segment.
func (l *chunkLog) wrote(s *segment, size int) {
	l.bytes += int64(size)
	if n := len(l.dirty); n == 0 || l.dirty[n-1] != s {
		l.dirty = append(l.dirty, s)
	}
}

// retire takes a segment without live chunks out of use.
func (l *chunkLog) retire(s *segment, saves uint64) error {
	l.segments = slices.DeleteFunc(l.segments, func(other *segment) bool { return other == s })
	l.retired = append(l.retired, retired{s, saves})
	return s.unmap()
}

// remove deletes a retired segment's file.
func (r retired) remove() error {
	return errors.Join(os.Remove(r.segment.path), r.segment.file.Close())
}

func (l *chunkLog) close() error {
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.close())
	}
	for _, r := range l.retired {
		errs = append(errs, r.segment.file.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}
