package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"unsafe"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// The layout of segment files, drawn in docs/formats.md. All numbers are
// little-endian; records begin at multiples of 8 bytes, so that the columns of
// a mapped file are aligned arrays.
const (
	segmentMagic   = "DFREPLAY"
	segmentVersion = 1
	segmentFixed   = 40         // bytes of a segment's header before the run's name
	recordMagic    = 0x4b4e4843 // "CHNK"
	recordFixed    = 80

	flagMasked = 1 // the record has a mask column

	offsetRefreshed = 76 // of the one header field that changes after writing
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// shape is what all chunks of a replay have in common.
type shape struct{ obsLen, actions, stride, contextLen int }

func shapeOf(c *protocol.Chunk) shape {
	return shape{c.ObsLen, c.Actions, c.Stride, c.ContextLen}
}

func (s shape) String() string {
	return fmt.Sprintf("observations of %d, %d actions, contexts of %d every %d steps", s.obsLen, s.actions, s.contextLen, s.stride)
}

func (s shape) rows(steps int) int { return (steps + s.stride - 1) / s.stride }

// columns are the offsets of a record's columns from its beginning. Those that
// are sampled stand together, since a page of the mapping that is touched
// costs as much as copying a kilobyte of it.
type columns struct {
	context, obs, reward, action, flags, mask, logProb, end int
}

func (s shape) columns(steps int, masked bool) columns {
	var c columns
	c.context = recordFixed
	c.obs = c.context + 4*s.rows(steps)*s.contextLen
	c.reward = c.obs + 4*steps*s.obsLen
	c.action = c.reward + 4*steps
	c.flags = c.action + 2*steps
	c.mask = c.flags + steps
	c.logProb = c.mask
	if masked {
		c.logProb += steps * protocol.MaskLen(s.actions)
	}
	c.end = c.logProb + 4*steps
	return c
}

// record is what the index keeps of a stored chunk, and what a restart reads
// back from its header.
type record struct {
	number  uint64 // chunks inserted into this replay before it
	before  uint64 // steps inserted before it
	env     uint32
	seq     uint64
	version uint64 // of the parameters
	actor   string
	task    string
	steps   int
	masked  bool
	size    int // bytes, a multiple of 8
}

// appendRecord appends a chunk's record.
func appendRecord(dst []byte, c *protocol.Chunk, number, before uint64) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, recordFixed)...)
	dst = append(dst, raw(c.Context)...)
	dst = append(dst, raw(c.Obs)...)
	dst = append(dst, raw(c.Reward)...)
	dst = append(dst, raw(c.Action)...)
	dst = append(dst, c.Flags...)
	dst = append(dst, c.Mask...)
	dst = append(dst, raw(c.LogProb)...)
	dst = append(dst, c.Actor...)
	dst = append(dst, c.Task...)
	for len(dst)%8 != start%8 {
		dst = append(dst, 0)
	}
	r := dst[start:]
	context := r[recordFixed : recordFixed+4*len(c.Context)]
	var flags uint32
	if c.Mask != nil {
		flags |= flagMasked
	}
	le := binary.LittleEndian
	le.PutUint32(r[0:], recordMagic)
	le.PutUint32(r[8:], uint32(len(r)))
	le.PutUint32(r[12:], crc32.Checksum(r[recordFixed+len(context):], castagnoli))
	le.PutUint32(r[16:], crc32.Checksum(context, castagnoli))
	le.PutUint32(r[20:], uint32(c.Steps))
	le.PutUint64(r[24:], number)
	le.PutUint64(r[32:], before)
	le.PutUint64(r[40:], c.Seq)
	le.PutUint64(r[48:], c.Trial)
	le.PutUint64(r[56:], c.ParamVersion)
	le.PutUint32(r[64:], c.Env)
	le.PutUint16(r[68:], uint16(len(c.Actor)))
	le.PutUint16(r[70:], uint16(len(c.Task)))
	le.PutUint32(r[72:], flags)
	le.PutUint32(r[4:], headerSum(r))
	return dst
}

// headerSum covers a record's header but for the magic, the sum itself and
// the refreshed field.
func headerSum(r []byte) uint32 { return crc32.Checksum(r[8:offsetRefreshed], castagnoli) }

// parseHeader reads the header at the beginning of b, with ok false unless one
// is there whose sum is right, whose lengths agree with each other and the
// shape, and which fits in b.
func parseHeader(b []byte, s shape) (r record, ok bool) {
	le := binary.LittleEndian
	if len(b) < recordFixed || le.Uint32(b) != recordMagic || le.Uint32(b[4:]) != headerSum(b) {
		return r, false
	}
	r = record{
		number:  le.Uint64(b[24:]),
		before:  le.Uint64(b[32:]),
		seq:     le.Uint64(b[40:]),
		version: le.Uint64(b[56:]),
		env:     le.Uint32(b[64:]),
		steps:   int(le.Uint32(b[20:])),
		masked:  le.Uint32(b[72:])&flagMasked != 0,
		size:    int(le.Uint32(b[8:])),
	}
	if r.steps < 1 || r.steps > math.MaxUint16 || r.size > len(b) {
		return r, false
	}
	end := s.columns(r.steps, r.masked).end
	actor, task := int(le.Uint16(b[68:])), int(le.Uint16(b[70:]))
	if r.size != align(end+actor+task) {
		return r, false
	}
	r.actor = string(b[end : end+actor])
	r.task = string(b[end+actor : end+actor+task])
	return r, true
}

// intact checks the sums of a record's columns. The context's sum holds until
// the first refresh; after it nothing but finiteness is asked of the context.
func intact(b []byte, r record, s shape) bool {
	le := binary.LittleEndian
	from := s.columns(r.steps, r.masked).obs
	if crc32.Checksum(b[from:r.size], castagnoli) != le.Uint32(b[12:]) {
		return false
	}
	if le.Uint32(b[offsetRefreshed:]) == 0 {
		return crc32.Checksum(b[recordFixed:from], castagnoli) == le.Uint32(b[16:])
	}
	return finite(floats(b, recordFixed, (from-recordFixed)/4))
}

// scan walks the records of a segment's content from an offset on and calls
// found for each good one. It returns the end of the last good record, and how
// many damaged stretches, of how many bytes in all, it skipped before that.
func scan(data []byte, at int, s shape, found func(at int, r record)) (end, damaged, damagedBytes int) {
	end = at
	for at < len(data) {
		r, ok := parseHeader(data[at:], s)
		if ok && intact(data[at:], r, s) {
			if at > end {
				damaged++
				damagedBytes += at - end
			}
			found(at, r)
			at += r.size
			end = at
			continue
		}
		if ok {
			at += r.size
		} else {
			at += 8
		}
	}
	return end, damaged, damagedBytes
}

// appendSegmentHeader appends what a segment file begins with.
func appendSegmentHeader(dst []byte, s shape, run string) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, segmentFixed)...)
	dst = append(dst, run...)
	dst = append(dst, make([]byte, align(len(run))-len(run))...)
	h := dst[start:]
	le := binary.LittleEndian
	copy(h, segmentMagic)
	le.PutUint32(h[12:], uint32(len(h)))
	le.PutUint32(h[16:], segmentVersion)
	le.PutUint32(h[20:], uint32(s.obsLen))
	le.PutUint32(h[24:], uint32(s.actions))
	le.PutUint32(h[28:], uint32(s.stride))
	le.PutUint32(h[32:], uint32(s.contextLen))
	le.PutUint32(h[36:], uint32(len(run)))
	le.PutUint32(h[8:], crc32.Checksum(h[12:], castagnoli))
	return dst
}

// parseSegmentHeader reads a segment's header and its length. Errors wrap
// ErrVersion or ErrCorrupt.
func parseSegmentHeader(b []byte) (s shape, run string, length int, err error) {
	le := binary.LittleEndian
	if len(b) < segmentFixed || string(b[:8]) != segmentMagic {
		return s, "", 0, fmt.Errorf("no segment header: %w", ErrCorrupt)
	}
	length = int(le.Uint32(b[12:]))
	if length < segmentFixed || length > len(b) || le.Uint32(b[8:]) != crc32.Checksum(b[12:length], castagnoli) {
		return s, "", 0, fmt.Errorf("segment header: %w", ErrCorrupt)
	}
	if v := le.Uint32(b[16:]); v != segmentVersion {
		return s, "", 0, fmt.Errorf("segment has version %d, this program reads %d: %w", v, segmentVersion, ErrVersion)
	}
	name := int(le.Uint32(b[36:]))
	if name > protocol.MaxName || length != segmentFixed+align(name) {
		return s, "", 0, fmt.Errorf("segment header of %d bytes with a name of %d: %w", length, name, ErrCorrupt)
	}
	s = shape{int(le.Uint32(b[20:])), int(le.Uint32(b[24:])), int(le.Uint32(b[28:])), int(le.Uint32(b[32:]))}
	if s.obsLen < 1 || s.obsLen > maxWidth || s.actions < 1 || s.actions > math.MaxUint16 ||
		s.stride < 1 || s.stride > math.MaxUint16 || s.contextLen > maxWidth {
		return s, "", 0, fmt.Errorf("segment of %v: %w", s, ErrCorrupt)
	}
	return s, string(b[segmentFixed : segmentFixed+name]), length, nil
}

// maxWidth bounds an observation's or a context's width as protocol does.
const maxWidth = 1 << 20

// Errors of files and of chunks that do not belong.
var (
	ErrVersion = errors.New("unknown format version")
	ErrCorrupt = errors.New("file is corrupt")
	ErrShape   = errors.New("chunk does not fit this replay")
	ErrClosed  = errors.New("replay is closed")
	ErrFailed  = errors.New("replay can no longer be written")
)

func align(n int) int { return (n + 7) &^ 7 }

// raw is the memory of a slice. Files are little-endian, which Open makes sure
// is the machine's order too.
func raw[T float32 | uint16](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(*new(T))))
}

// floats is the inverse of raw for n numbers at an aligned offset.
func floats(b []byte, at, n int) []float32 {
	if n == 0 {
		return nil
	}
	b = b[at : at+4*n]
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

func uint16s(b []byte, at, n int) []uint16 {
	b = b[at : at+2*n]
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

func finite(v []float32) bool {
	for _, x := range v {
		if math.Float32bits(x)&0x7f800000 == 0x7f800000 {
			return false
		}
	}
	return true
}
