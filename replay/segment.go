package replay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	segmentSuffix = ".segment"

	// maxSegment bounds a segment file in bytes, and with it what a mapping
	// reserves of the address space. It is eight times protocol's largest
	// message.
	maxSegment = 64 << 20

	// segmentsPerWindow divides the capacity: a segment goes when its last
	// chunk has gone, so that on average 1/64 of the disk holds evicted steps.
	segmentsPerWindow = 32
)

// segment is one append-only file of records, mapped into memory. Records are
// appended by write(2), so that a full disk is an error rather than a fault;
// only refreshed contexts are written through the mapping, into blocks that
// are there.
type segment struct {
	id    uint64
	path  string
	file  *os.File
	data  []byte // mapping, which may reach beyond the end of the file
	size  int    // bytes written
	steps int    // written since Open

	readOnly bool // the file stays as it is

	chunks    int // live
	window    int // of those, in the window
	liveBytes int
}

func (s *segment) enter(size int) { s.chunks++; s.liveBytes += size }
func (s *segment) leave(size int) { s.chunks--; s.liveBytes -= size }

func segmentPath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d%s", id, segmentSuffix))
}

// segmentIDs lists the segments in a folder in the order of their creation.
func segmentIDs(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir) // sorted, and the names have a fixed width
	if err != nil {
		return nil, err
	}
	var ids []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil || segmentPath(dir, id) != filepath.Join(dir, e.Name()) {
			return nil, fmt.Errorf("%s in %s is not a segment's name: remove the file", e.Name(), dir)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// createSegment begins a file with its header.
func createSegment(dir string, id uint64, header []byte) (*segment, error) {
	path := segmentPath(dir, id)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	s := &segment{id: id, path: path, file: f}
	if _, err = f.WriteAt(header, 0); err == nil {
		s.size = len(header)
		s.data, err = mapFile(f, maxSegment, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close(), os.Remove(path))
	}
	return s, nil
}

// openSegment maps a file that exists. Where it is only read, what is written
// to the mapping stays in memory.
func openSegment(dir string, id uint64, readOnly bool) (*segment, error) {
	s := &segment{id: id, path: segmentPath(dir, id), readOnly: readOnly}
	mode, sharing := os.O_RDWR, unix.MAP_SHARED
	if readOnly {
		mode, sharing = os.O_RDONLY, unix.MAP_PRIVATE
	}
	f, err := os.OpenFile(s.path, mode, 0)
	if err != nil {
		return nil, err
	}
	s.file = f
	info, err := f.Stat()
	if err == nil && info.Size() > maxSegment {
		err = fmt.Errorf("%d bytes are more than a segment has: %w", info.Size(), ErrCorrupt)
	}
	if err == nil && info.Size() > 0 {
		s.size = int(info.Size())
		s.data, err = mapFile(f, s.size, sharing)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", s.path, err), f.Close())
	}
	return s, nil
}

// append writes a record at the end and returns where it begins. What a failed
// write has left there is overwritten by the next.
func (s *segment) append(record []byte, steps int) (at int, err error) {
	at = s.size
	if _, err := s.file.WriteAt(record, int64(at)); err != nil {
		return 0, fmt.Errorf("write chunk: %w", err)
	}
	s.size += len(record)
	s.steps += steps
	return at, nil
}

// truncate cuts the file off. It need not be synced: what a power cut brings
// back is cut off again.
func (s *segment) truncate(size int) error {
	s.size = size
	if s.readOnly {
		return nil
	}
	return s.file.Truncate(int64(size))
}

// unmap ends access to the records; the file stays open for a last sync.
func (s *segment) unmap() error {
	data := s.data
	s.data = nil
	if data == nil {
		return nil
	}
	return unix.Munmap(data)
}

func (s *segment) close() error { return errors.Join(s.unmap(), s.file.Close()) }

func mapFile(f *os.File, size, sharing int) ([]byte, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, sharing)
	if err != nil {
		return nil, fmt.Errorf("map into memory: %w", err)
	}
	return data, nil
}

// lockDir opens a folder and keeps other processes from locking it until it
// is closed.
func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another replay uses the folder: %w", err), d.Close())
	}
	return d, nil
}

// syncDir makes created, renamed and removed names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
