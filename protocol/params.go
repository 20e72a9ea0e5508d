package protocol

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

const (
	// FrameBytes is the length of every frame of a parameter blob but the
	// last: small enough for any server's max_payload (1 MB unless raised).
	FrameBytes = 512 << 10
	// MaxParams is the largest parameter blob in bytes.
	MaxParams = 1 << 30

	// paramFormat is the format of frames that is written. See layout for when it is
	// not the newest of those that are read.
	paramFormat = "2"
)

// paramFormats are those that are read.
var paramFormats = []string{"2"}

// Headers of a parameter frame.
const (
	headerFormat  = "Df-Format"
	headerEpoch   = "Df-Epoch"
	headerVersion = "Df-Version"
	headerIndex   = "Df-Index"
	headerCount   = "Df-Count"
	headerSize    = "Df-Size"
	headerDigest  = "Df-CRC32C"
	headerGone    = "Df-Gone"  // instead of the others: there is no such frame
	headerLater   = "Df-Later" // beside it: there is, but it is not served singly now
)

// ParamID orders parameter blobs: by the learner's epoch, then by version. A
// learner takes a higher epoch with each Lease, so that one resumed from an older
// checkpoint is followed although its version (its training step) went back, and
// one that was replaced but still runs is not. Epochs count from 1; the zero
// ParamID is older than any.
type ParamID struct{ Epoch, Version uint64 }

// After reports whether id is newer than other.
func (id ParamID) After(other ParamID) bool {
	return id.Epoch > other.Epoch || id.Epoch == other.Epoch && id.Version > other.Version
}

// ParamFrame is one piece of a parameter blob with all it takes to put the
// blob together and to verify it.
type ParamFrame struct {
	ID     ParamID
	Index  int    // of Count
	Count  int    // ceil(Size/FrameBytes), at least 1
	Size   int    // of the blob in bytes, at least 1
	Digest uint32 // CRC32C of the blob
	Data   []byte
}

// SplitParams cuts a blob into frames whose Data alias it.
func SplitParams(id ParamID, blob []byte) ([]ParamFrame, error) {
	if len(blob) == 0 {
		return nil, fmt.Errorf("parameters are empty: %w", ErrCorrupt)
	}
	if len(blob) > MaxParams {
		return nil, fmt.Errorf("parameters of %d bytes, at most %d: %w", len(blob), MaxParams, ErrTooLarge)
	}
	frames := make([]ParamFrame, frameCount(len(blob)))
	digest := crc32.Checksum(blob, castagnoli)
	for i := range frames {
		frames[i] = ParamFrame{
			ID: id, Index: i, Count: len(frames), Size: len(blob), Digest: digest,
			Data: blob[i*FrameBytes : min((i+1)*FrameBytes, len(blob))],
		}
	}
	return frames, nil
}

func frameCount(size int) int { return (size + FrameBytes - 1) / FrameBytes }

// message is the frame as it goes over the wire to subject.
func (f *ParamFrame) message(subject string) *nats.Msg {
	return &nats.Msg{Subject: subject, Data: f.Data, Header: nats.Header{
		headerFormat:  {paramFormat},
		headerEpoch:   {strconv.FormatUint(f.ID.Epoch, 10)},
		headerVersion: {strconv.FormatUint(f.ID.Version, 10)},
		headerIndex:   {strconv.Itoa(f.Index)},
		headerCount:   {strconv.Itoa(f.Count)},
		headerSize:    {strconv.Itoa(f.Size)},
		headerDigest:  {fmt.Sprintf("%08x", f.Digest)},
	}}
}

// parseFrame reads a frame whose Data aliases data. The header function
// returns a header's first value, or "".
func parseFrame(header func(string) string, data []byte) (ParamFrame, error) {
	if got := header(headerFormat); !slices.Contains(paramFormats, got) {
		return ParamFrame{}, fmt.Errorf("parameter frame of format %.20q, this program reads %s: %w", got, strings.Join(paramFormats, " and "), ErrVersion)
	}
	f := ParamFrame{Data: data}
	var err error
	number := func(name string, high uint64) uint64 {
		v, parseErr := strconv.ParseUint(header(name), 10, 64)
		if err == nil && parseErr != nil {
			err = fmt.Errorf("parameter frame header %s is %.40q: %w", name, header(name), ErrCorrupt)
		}
		if err == nil && v > high {
			err = fmt.Errorf("parameter frame header %s is %d, at most %d: %w", name, v, high, ErrTooLarge)
		}
		return v
	}
	f.ID.Epoch = number(headerEpoch, 1<<64-1)
	f.ID.Version = number(headerVersion, 1<<64-1)
	f.Size = int(number(headerSize, MaxParams))
	f.Count = int(number(headerCount, MaxParams/FrameBytes))
	f.Index = int(number(headerIndex, MaxParams/FrameBytes))
	if err != nil {
		return ParamFrame{}, err
	}
	digest, hexErr := strconv.ParseUint(header(headerDigest), 16, 32)
	f.Digest = uint32(digest)
	want := min(FrameBytes, f.Size-f.Index*FrameBytes)
	switch {
	case hexErr != nil || len(header(headerDigest)) != 8:
		return ParamFrame{}, fmt.Errorf("parameter frame header %s is %.40q: %w", headerDigest, header(headerDigest), ErrCorrupt)
	case f.Size < 1 || f.Count != frameCount(f.Size) || f.Index >= f.Count:
		return ParamFrame{}, fmt.Errorf("parameter frame %d of %d for %d bytes: %w", f.Index, f.Count, f.Size, ErrCorrupt)
	case len(data) < want:
		return ParamFrame{}, fmt.Errorf("parameter frame has %d of %d bytes: %w", len(data), want, ErrTruncated)
	case len(data) > want:
		return ParamFrame{}, fmt.Errorf("parameter frame has %d bytes over its %d: %w", len(data)-want, want, ErrCorrupt)
	}
	return f, nil
}

// errStale marks a frame of a version that is finished or was overtaken.
var errStale = errors.New("frame of an older version")

// Assembler puts the newest version's blob together from frames in any order,
// with losses, repetitions and frames of other versions among them. It holds
// at most one unfinished blob. The zero value is ready.
type Assembler struct {
	newest  ParamID // finished; zero: none yet
	head    ParamFrame
	blob    []byte // nil: no version in hand
	have    []bool
	missing int
	summed  int    // frames from the first on that digest covers
	digest  uint32 // of these
}

// Add takes in a frame. When it completes a blob whose digest is right, the
// blob is returned and belongs to the caller. Frames of older versions are an
// error, as are frames that contradict the ones before (ErrCorrupt); after a
// wrong digest the version is forgotten, so that it can be fetched anew.
func (a *Assembler) Add(f ParamFrame) (blob []byte, err error) {
	if !f.ID.After(a.newest) || a.blob != nil && a.head.ID.After(f.ID) {
		return nil, fmt.Errorf("parameters %d: %w", f.ID.Version, errStale)
	}
	if a.blob == nil || f.ID.After(a.head.ID) {
		a.head, a.missing, a.summed, a.digest = f, f.Count, 0, 0
		a.head.Data = nil
		a.blob, a.have = make([]byte, f.Size), make([]bool, f.Count)
	}
	if f.Size != a.head.Size || f.Digest != a.head.Digest {
		return nil, fmt.Errorf("parameters %d: frame %d is of another blob: %w", f.ID.Version, f.Index, ErrCorrupt)
	}
	if a.have[f.Index] {
		return nil, nil
	}
	copy(a.blob[f.Index*FrameBytes:], f.Data)
	a.have[f.Index] = true
	a.sum()
	if a.missing--; a.missing > 0 {
		return nil, nil
	}
	blob = a.blob
	a.Drop()
	if a.digest != f.Digest {
		return nil, fmt.Errorf("parameters %d: digest differs: %w", f.ID.Version, ErrCorrupt)
	}
	a.newest = f.ID
	return blob, nil
}

// sum takes the frames in order into the digest as soon as they are there,
// while their bytes are in the processor's cache.
func (a *Assembler) sum() {
	for ; a.summed < len(a.have) && a.have[a.summed]; a.summed++ {
		from := a.summed * FrameBytes
		a.digest = crc32.Update(a.digest, castagnoli, a.blob[from:min(from+FrameBytes, len(a.blob))])
	}
}

// Skip has every version of an epoch before this one count as overtaken.
func (a *Assembler) Skip(epoch uint64) {
	if floor := (ParamID{Epoch: epoch - 1, Version: math.MaxUint64}); epoch > 0 && floor.After(a.newest) {
		a.newest = floor
	}
}

// Newest is the version finished last, zero before the first.
func (a *Assembler) Newest() ParamID { return a.newest }

// Missing returns the version in hand and the frames it lacks; none when no
// version is in hand.
func (a *Assembler) Missing() (id ParamID, indexes []int) {
	for i, have := range a.have {
		if !have {
			indexes = append(indexes, i)
		}
	}
	return a.head.ID, indexes
}

// Drop forgets the unfinished version.
func (a *Assembler) Drop() { a.head, a.blob, a.have = ParamFrame{}, nil, nil }
