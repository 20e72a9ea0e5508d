package protocol

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/nats-io/nats.go"
)

func testBlob(size int, fill byte) []byte {
	blob := make([]byte, size)
	for i := range blob {
		blob[i] = fill + byte(i*31>>8)
	}
	return blob
}

func split(t testing.TB, epoch, version uint64, blob []byte) []ParamFrame {
	t.Helper()
	frames, err := SplitParams(ParamID{epoch, version}, blob)
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

// add expects every frame but the last to complete nothing.
func add(t *testing.T, a *Assembler, frames ...ParamFrame) (blob []byte) {
	t.Helper()
	for i, f := range frames {
		got, err := a.Add(f)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if got != nil && i < len(frames)-1 {
			t.Fatalf("frame %d completes a blob", i)
		}
		blob = got
	}
	return blob
}

func TestSplitAndAssemble(t *testing.T) {
	for _, size := range []int{1, FrameBytes - 1, FrameBytes, FrameBytes + 1, 3*FrameBytes + 17} {
		want := testBlob(size, 1)
		frames := split(t, 1, 1, want)
		frames = append(frames[:len(frames)-1:len(frames)-1], frames[0], frames[len(frames)-1])
		rand.New(rand.NewPCG(1, uint64(size))).Shuffle(len(frames)-1, func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		if size <= FrameBytes {
			frames = frames[:1]
		}
		var a Assembler
		if got := add(t, &a, frames...); !bytes.Equal(got, want) {
			t.Errorf("%d bytes come back as %d others", size, len(got))
		}
		if a.Newest() != (ParamID{1, 1}) {
			t.Errorf("newest is %v", a.Newest())
		}
	}
	if _, err := SplitParams(ParamID{1, 1}, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("an empty blob: %v", err)
	}
}

func TestFrameMessageRoundTrip(t *testing.T) {
	for _, want := range split(t, 1<<60, 7, testBlob(2*FrameBytes+5, 3)) {
		msg := want.message("s")
		got, err := parseFrame(msg.Header.Get, msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Data, want.Data) {
			t.Error("data differs")
		}
		got.Data, want.Data = nil, nil
		if got.ID != want.ID || got.Index != want.Index || got.Count != want.Count || got.Size != want.Size || got.Digest != want.Digest {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestParseFrameReasons(t *testing.T) {
	frame := split(t, 1, 7, testBlob(FrameBytes+5, 3))[1]
	for name, tc := range map[string]struct {
		spoil func(*nats.Msg)
		want  error
	}{
		"format":        {func(m *nats.Msg) { m.Header.Set(headerFormat, "1") }, ErrVersion},
		"no headers":    {func(m *nats.Msg) { m.Header = nats.Header{} }, ErrVersion},
		"size":          {func(m *nats.Msg) { m.Header.Set(headerSize, "99999999999") }, ErrTooLarge},
		"negative size": {func(m *nats.Msg) { m.Header.Set(headerSize, "-1") }, ErrCorrupt},
		"no bytes":      {func(m *nats.Msg) { m.Header.Set(headerSize, "0"); m.Header.Set(headerCount, "0") }, ErrCorrupt},
		"count":         {func(m *nats.Msg) { m.Header.Set(headerCount, "3") }, ErrCorrupt},
		"index":         {func(m *nats.Msg) { m.Header.Set(headerIndex, "2") }, ErrCorrupt},
		"digest":        {func(m *nats.Msg) { m.Header.Set(headerDigest, "abcd") }, ErrCorrupt},
		"no digest":     {func(m *nats.Msg) { m.Header.Set(headerDigest, "0x12345g") }, ErrCorrupt},
		"long digest":   {func(m *nats.Msg) { m.Header.Set(headerDigest, m.Header.Get(headerDigest)+"00") }, ErrCorrupt},
		"short data":    {func(m *nats.Msg) { m.Data = m.Data[:4] }, ErrTruncated},
		"long data":     {func(m *nats.Msg) { m.Data = make([]byte, 6) }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			msg := frame.message("s")
			tc.spoil(msg)
			if _, err := parseFrame(msg.Header.Get, msg.Data); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestAssemblerTakesTheNewest(t *testing.T) {
	older, newer := split(t, 1, 5, testBlob(2*FrameBytes, 1)), split(t, 1, 6, testBlob(2*FrameBytes, 2))
	var a Assembler
	add(t, &a, older[0], newer[0])
	if _, err := a.Add(older[1]); !errors.Is(err, errStale) {
		t.Errorf("a frame of an overtaken version: %v", err)
	}
	if id, missing := a.Missing(); id.Version != 6 || len(missing) != 1 || missing[0] != 1 {
		t.Errorf("version %v misses %v", id, missing)
	}
	if got := add(t, &a, newer[1]); !bytes.Equal(got, testBlob(2*FrameBytes, 2)) {
		t.Error("the newer version is torn")
	}
	for _, f := range []ParamFrame{older[0], newer[0]} {
		if _, err := a.Add(f); !errors.Is(err, errStale) {
			t.Errorf("a frame of finished version %d: %v", f.ID.Version, err)
		}
	}
	// A learner that restarted from an older checkpoint is followed, one that
	// it replaced is not.
	if got := add(t, &a, split(t, 2, 3, testBlob(9, 3))...); got == nil {
		t.Error("a learner's new epoch is not followed")
	}
	if _, err := a.Add(split(t, 1, 99, testBlob(9, 4))[0]); !errors.Is(err, errStale) {
		t.Errorf("a replaced learner is followed: %v", err)
	}
}

func TestAssemblerRefusesTornVersions(t *testing.T) {
	want := testBlob(2*FrameBytes, 1)
	good, other := split(t, 1, 5, want), split(t, 1, 5, testBlob(2*FrameBytes, 2))
	var a Assembler
	add(t, &a, good[0])
	if _, err := a.Add(other[1]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a frame of another blob under the same version: %v", err)
	}
	flipped := good[1]
	flipped.Data = bytes.Clone(flipped.Data)
	flipped.Data[3] ^= 1
	if blob, err := a.Add(flipped); !errors.Is(err, ErrCorrupt) || blob != nil {
		t.Errorf("a flipped bit: %v", err)
	}
	if got := add(t, &a, good...); !bytes.Equal(got, want) {
		t.Error("the version cannot be fetched anew")
	}
}

func FuzzParseFrame(f *testing.F) {
	frame := split(f, 3, 7, testBlob(FrameBytes+5, 3))[1]
	h := frame.message("").Header
	f.Add(h.Get(headerFormat), h.Get(headerEpoch), h.Get(headerVersion), h.Get(headerIndex), h.Get(headerCount), h.Get(headerSize), h.Get(headerDigest), frame.Data)
	f.Add("2", "-1", "18446744073709551616", "2047", "2048", "1073741824", "zz", []byte{})
	f.Add("", "", "", "", "", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, format, epoch, version, index, count, size, digest string, data []byte) {
		header := nats.Header{
			headerFormat: {format}, headerEpoch: {epoch}, headerVersion: {version}, headerIndex: {index},
			headerCount: {count}, headerSize: {size}, headerDigest: {digest},
		}
		frame, err := parseFrame(header.Get, data)
		if err != nil {
			if Reason(err) == "other" {
				t.Fatalf("no reason in %v", err)
			}
			return
		}
		if frame.Size > 4*FrameBytes {
			return // Add would allocate the announced size
		}
		var a Assembler
		if _, err := a.Add(frame); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, errStale) {
			t.Fatal(err)
		}
	})
}
