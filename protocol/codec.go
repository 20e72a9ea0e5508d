package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// Why a message was refused. Decoders wrap one of these with the field at
// fault; Reason names it for counting.
var (
	ErrVersion   = errors.New("unknown format or version")
	ErrTruncated = errors.New("message ends early")
	ErrTooLarge  = errors.New("length over its bound")
	ErrCorrupt   = errors.New("message is corrupt")
)

// Reasons are the values of Reason, in a fixed order for reports.
var reasons = [...]string{"version", "truncated", "too_large", "corrupt", "other"}

// Reason names the sentinel an error wraps: "version", "truncated",
// "too_large", "corrupt", or "other".
func Reason(err error) string { return reasons[reasonIndex(err)] }

// Reasons returns all values of Reason.
func Reasons() []string { return slices.Clone(reasons[:]) }

func reasonIndex(err error) int {
	for i, sentinel := range [...]error{ErrVersion, ErrTruncated, ErrTooLarge, ErrCorrupt} {
		if errors.Is(err, sentinel) {
			return i
		}
	}
	return len(reasons) - 1
}

// Limits bound what a decoder accepts. A zero field stands for its default.
// Within them a decoder allocates at most eight times the size of the message
// in hand (a batch's mask grows from bits to bools).
type Limits struct {
	Bytes int // of a whole message; default MaxMessage
	Steps int // of a chunk, and sequences or steps of a batch; default 65535
	Width int // of one observation, action set or context row; default 1<<20
}

// MaxMessage is the largest message in bytes: the embedded server's
// max_payload, and 32 to 128 times the size of a usual chunk.
const MaxMessage = 8 << 20

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = MaxMessage
	}
	if l.Steps == 0 {
		l.Steps = math.MaxUint16
	}
	if l.Width == 0 {
		l.Width = 1 << 20
	}
	return l
}

// Every message is one msgpack array of five elements
//
//	[magic str4, version, size uint32, crc uint32, body]
//
// whose first four have a fixed width, so that size and crc can be checked
// before anything in the body is believed.
const (
	offsetVersion = 6
	offsetSize    = 8
	offsetCRC     = 13
	prefixLen     = 17
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder appends msgpack to a byte slice. Its writes cannot fail, the error
// is kept all the same since msgpack's methods return one.
type encoder struct {
	b     []byte
	start int
	m     *msgpack.Encoder
	err   error
}

// layout is how a kind of message is laid out, version by version. The newest version
// and the one before are read. A new one is written one release after it is read, so that
// the processes of a run can be upgraded one after another, in any order: those of
// neighbouring releases read all that the others write.
type layout struct {
	fields  []int // of the body in version 1, in version 2 and so on
	written uint8 // version: the newest, or in the first release that reads it the one before
}

// of is how many fields the body of a version has; ok is false for one that is not read.
func (l layout) of(version uint8) (n int, ok bool) {
	newest := uint8(len(l.fields))
	if version < 1 || version > newest || newest-version > 1 {
		return 0, false
	}
	return l.fields[version-1], true
}

func (l layout) reads(version uint8) bool { _, ok := l.of(version); return ok }

// read names the versions that are.
func (l layout) read() string {
	if n := len(l.fields); n > 1 {
		return fmt.Sprintf("%d and %d", n-1, n)
	}
	return "1"
}

func newEncoder(dst []byte, magic string, l layout) *encoder {
	e := &encoder{b: dst, start: len(dst), m: msgpack.GetEncoder()}
	e.m.Reset(e)
	e.array(5)
	e.str(magic)
	e.uint(uint64(l.written))
	e.keep(e.m.EncodeUint32(0))
	e.keep(e.m.EncodeUint32(0))
	e.array(l.fields[l.written-1])
	return e
}

// Write implements io.Writer for msgpack's encoder.
func (e *encoder) Write(p []byte) (int, error) { e.b = append(e.b, p...); return len(p), nil }

// WriteByte implements io.ByteWriter for msgpack's encoder.
func (e *encoder) WriteByte(c byte) error { e.b = append(e.b, c); return nil }

func (e *encoder) keep(err error) {
	if e.err == nil {
		e.err = err
	}
}

func (e *encoder) array(n int)     { e.keep(e.m.EncodeArrayLen(n)) }
func (e *encoder) uint(v uint64)   { e.keep(e.m.EncodeUint(v)) }
func (e *encoder) str(s string)    { e.keep(e.m.EncodeString(s)) }
func (e *encoder) f64(v float64)   { e.keep(e.m.EncodeFloat64(v)) }
func (e *encoder) binary(n int)    { e.keep(e.m.EncodeBytesLen(n)) }
func (e *encoder) bytes(v []uint8) { e.binary(len(v)); e.b = append(e.b, v...) }

func (e *encoder) float32s(v []float32) { e.binary(4 * len(v)); e.b = appendColumn(e.b, v) }
func (e *encoder) uint16s(v []uint16)   { e.binary(2 * len(v)); e.b = appendColumn(e.b, v) }
func (e *encoder) uint64s(v []uint64)   { e.binary(8 * len(v)); e.b = appendColumn(e.b, v) }

// seal fills in size and CRC and returns dst with the message appended.
func (e *encoder) seal() ([]byte, error) {
	msgpack.PutEncoder(e.m)
	if e.err != nil {
		return e.b[:e.start], fmt.Errorf("encode message: %w", e.err)
	}
	message := e.b[e.start:]
	if len(message) > MaxMessage {
		return e.b[:e.start], fmt.Errorf("message of %d bytes, at most %d: %w", len(message), MaxMessage, ErrTooLarge)
	}
	sealMessage(message)
	return e.b, nil
}

func sealMessage(message []byte) {
	body := message[prefixLen:]
	binary.BigEndian.PutUint32(message[offsetSize:], uint32(len(body)))
	binary.BigEndian.PutUint32(message[offsetCRC:], crc32.Checksum(body, castagnoli))
}

// decoder reads a message's body field by field. The first error sticks and
// later reads return zeros, so a caller checks once, at close.
type decoder struct {
	b   []byte
	r   sliceReader
	m   *msgpack.Decoder
	lim Limits
	err error
}

// newDecoder checks the prefix (magic, version, size, CRC) and stands at the
// body's first field.
func newDecoder(b []byte, magic string, l layout, limits Limits) *decoder {
	d := &decoder{b: b, lim: limits.withDefaults()}
	if d.err = checkPrefix(b, magic, l, d.lim.Bytes); d.err != nil {
		return d
	}
	fields, _ := l.of(b[offsetVersion])
	d.r = sliceReader{b: b, at: prefixLen}
	d.m = msgpack.GetDecoder()
	d.m.Reset(&d.r)
	d.array("body", fields, fields)
	return d
}

func checkPrefix(b []byte, magic string, l layout, limit int) error {
	switch {
	case len(b) > limit:
		return fmt.Errorf("message of %d bytes, at most %d: %w", len(b), limit, ErrTooLarge)
	case len(b) < prefixLen:
		return fmt.Errorf("message of %d bytes: %w", len(b), ErrTruncated)
	case b[0] != 0x95 || b[1] != 0xa4 || string(b[2:offsetVersion]) != magic:
		return fmt.Errorf("message does not start as a %s message: %w", magic, ErrVersion)
	case !l.reads(b[offsetVersion]):
		return fmt.Errorf("%s message of version %d, this program reads %s: %w", magic, b[offsetVersion], l.read(), ErrVersion)
	case b[offsetSize-1] != 0xce || b[offsetCRC-1] != 0xce:
		return fmt.Errorf("%s message prefix: %w", magic, ErrCorrupt)
	}
	body := b[prefixLen:]
	switch size := uint64(binary.BigEndian.Uint32(b[offsetSize:])); {
	case uint64(len(body)) < size:
		return fmt.Errorf("body has %d of %d bytes: %w", len(body), size, ErrTruncated)
	case uint64(len(body)) > size:
		return fmt.Errorf("%d bytes after the end: %w", uint64(len(body))-size, ErrCorrupt)
	}
	if want, got := binary.BigEndian.Uint32(b[offsetCRC:]), crc32.Checksum(body, castagnoli); want != got {
		return fmt.Errorf("CRC32C is %08x, header says %08x: %w", got, want, ErrCorrupt)
	}
	return nil
}

func (d *decoder) fail(field string, err error) {
	if d.err != nil {
		return
	}
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrTruncated), errors.Is(err, ErrCorrupt):
		d.err = fmt.Errorf("%s: %w", field, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		d.err = fmt.Errorf("%s: %w", field, ErrTruncated)
	default:
		d.err = fmt.Errorf("%s: %v: %w", field, err, ErrCorrupt)
	}
}

// close returns the first error; bytes left unread are one.
func (d *decoder) close() error {
	if d.m != nil {
		msgpack.PutDecoder(d.m)
		d.m = nil
	}
	if left := len(d.b) - d.r.at; d.err == nil && left != 0 {
		d.err = fmt.Errorf("%d bytes after the last field: %w", left, ErrCorrupt)
	}
	return d.err
}

// array reads an array header whose length must be in [low, high].
func (d *decoder) array(field string, low, high int) int {
	if d.err != nil {
		return 0
	}
	n, err := d.m.DecodeArrayLen()
	switch {
	case err != nil:
		d.fail(field, err)
	case n < low:
		d.fail(field, fmt.Errorf("%d elements, at least %d expected: %w", n, low, ErrCorrupt))
	case n > high:
		d.fail(field, fmt.Errorf("%d elements, at most %d: %w", n, high, ErrTooLarge))
	default:
		return n
	}
	return 0
}

func (d *decoder) uint(field string, high uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, err := d.m.DecodeUint64()
	switch {
	case err != nil:
		d.fail(field, err)
	case v > high:
		d.fail(field, fmt.Errorf("%d, at most %d: %w", v, high, ErrTooLarge))
	default:
		return v
	}
	return 0
}

func (d *decoder) int(field string, high int) int { return int(d.uint(field, uint64(high))) }

func (d *decoder) f64(field string) float64 {
	if d.err != nil {
		return 0
	}
	v, err := d.m.DecodeFloat64()
	if err != nil {
		d.fail(field, err)
	}
	return v
}

// raw returns the next str or bin, aliasing the message. present is false for
// nil, which is accepted only here.
func (d *decoder) raw(field string, high int) (raw []byte, present bool) {
	if d.err != nil {
		return nil, false
	}
	n, err := d.m.DecodeBytesLen()
	switch {
	case err != nil:
		d.fail(field, err)
		return nil, false
	case n < 0:
		return nil, false
	case n > high:
		d.fail(field, fmt.Errorf("%d bytes, at most %d: %w", n, high, ErrTooLarge))
		return nil, false
	case n > len(d.b)-d.r.at:
		d.fail(field, fmt.Errorf("%d bytes, %d left: %w", n, len(d.b)-d.r.at, ErrTruncated))
		return nil, false
	}
	raw = d.b[d.r.at : d.r.at+n]
	d.r.at += n
	return raw, true
}

func (d *decoder) str(field string, high int) string {
	raw, present := d.raw(field, high)
	if !present {
		d.fail(field, ErrCorrupt)
	}
	return string(raw)
}

// column returns a bin of exactly n bytes, aliasing the message.
func (d *decoder) column(field string, n int64) []byte {
	raw, present := d.raw(field, d.lim.Bytes)
	if d.err == nil && (!present || int64(len(raw)) != n) {
		d.fail(field, fmt.Errorf("%d bytes, the shape says %d: %w", len(raw), n, ErrCorrupt))
		return nil
	}
	return raw
}

// The typed columns copy into dst, which is grown where it is too small.

func (d *decoder) float32s(field string, dst []float32, n int64) []float32 {
	raw := d.column(field, 4*n)
	return readColumn(grow(dst, len(raw)/4), raw)
}

func (d *decoder) uint16s(field string, dst []uint16, n int64) []uint16 {
	raw := d.column(field, 2*n)
	return readColumn(grow(dst, len(raw)/2), raw)
}

func (d *decoder) uint64s(field string, dst []uint64, n int64) []uint64 {
	raw := d.column(field, 8*n)
	return readColumn(grow(dst, len(raw)/8), raw)
}

func (d *decoder) uint8s(field string, dst []uint8, n int64) []uint8 {
	raw := d.column(field, n)
	dst = grow(dst, len(raw))
	copy(dst, raw)
	return dst
}

// grow returns dst with length n, its own memory where that suffices.
func grow[T any](dst []T, n int) []T {
	if cap(dst) < n {
		return make([]T, n)
	}
	return dst[:n]
}

// number is what a typed column consists of.
type number interface{ uint16 | uint64 | float32 }

// wireOrder is whether this machine keeps numbers in the order of the wire,
// which is little-endian. A column is then copied as it lies in memory, an
// order of magnitude faster than number by number.
var wireOrder = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// memory is the bytes of a column as this machine keeps them.
func memory[T number](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(*new(T))))
}

// appendColumn appends numbers in the order of the wire.
func appendColumn[T number](b []byte, v []T) []byte {
	if wireOrder {
		return append(b, memory(v)...)
	}
	b, _ = binary.Append(b, binary.LittleEndian, v) // fails only for types of no fixed size
	return b
}

// readColumn fills dst, which has the length that raw says, from the wire.
func readColumn[T number](dst []T, raw []byte) []T {
	if wireOrder {
		copy(memory(dst), raw)
	} else {
		_, _ = binary.Decode(raw, binary.LittleEndian, dst) // as above
	}
	return dst
}

// sliceReader is the reader msgpack's decoder takes without buffering ahead,
// so that at is always the next field's offset.
type sliceReader struct {
	b  []byte
	at int
}

func (r *sliceReader) Read(p []byte) (int, error) {
	if r.at >= len(r.b) {
		return 0, io.EOF
	}
	n := copy(p, r.b[r.at:])
	r.at += n
	return n, nil
}

func (r *sliceReader) ReadByte() (byte, error) {
	if r.at >= len(r.b) {
		return 0, io.EOF
	}
	r.at++
	return r.b[r.at-1], nil
}

func (r *sliceReader) UnreadByte() error {
	if r.at == 0 {
		return errors.New("unread before the start")
	}
	r.at--
	return nil
}

func finite32(field string, values []float32) error {
	const exponent = 0x7f800000
	// An exponent of all ones is Inf or NaN, and carries into the sign's bit
	// when its lowest bit is added. Blocks of eight numbers without one are
	// passed over quickly, two numbers to a word.
	const both, lowest, signs = exponent<<32 | exponent, 0x00800000_00800000, 0x80000000_80000000
	clean := 0
	for rest := memory(values); len(rest) >= 32; rest = rest[32:] {
		a, b := binary.NativeEndian.Uint64(rest)&both+lowest, binary.NativeEndian.Uint64(rest[8:])&both+lowest
		c, d := binary.NativeEndian.Uint64(rest[16:])&both+lowest, binary.NativeEndian.Uint64(rest[24:])&both+lowest
		if (a|b|c|d)&signs != 0 {
			break
		}
		clean += 8
	}
	for i := clean; i < len(values); i++ {
		if v := values[i]; math.Float32bits(v)&exponent == exponent {
			return fmt.Errorf("%s[%d] is %v: %w", field, i, v, ErrCorrupt)
		}
	}
	return nil
}

func finite64(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
