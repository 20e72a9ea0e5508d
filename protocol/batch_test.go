package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"
)

func testBatch() *Batch {
	b := &Batch{}
	b.Resize(2, 3, 2, 9, 2)
	for i := range b.Obs {
		b.Obs[i] = float32(i) / 2
	}
	for i := range b.Action {
		b.Action[i], b.Reward[i], b.Flags[i] = uint16(i), -float32(i), 0
	}
	b.Flags[0] = FlagFirst | FlagEpisodeStart
	for i := range b.Mask {
		b.Mask[i] = i%3 != 0
	}
	copy(b.Context, []float32{1, 2, 3, 4})
	copy(b.ParamVersion, []uint64{5, math.MaxUint64})
	b.Refs = []Ref{{0, 0, 9, 1, 0}, {1, 2, 1 << 31, 7, 3}}
	return b
}

func testRefresh() *Refresh {
	return &Refresh{Refs: testBatch().Refs, Context: []float32{1, 2, 3, 4, 5, 6}}
}

type appender interface {
	AppendTo([]byte) ([]byte, error)
}

func encode(t testing.TB, m appender) []byte {
	t.Helper()
	b, err := m.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	want := testBatch()
	b := encode(t, want)
	var got Batch
	got.Resize(7, 1, 1, 1, 40) // leftovers of another shape
	for range 2 {
		if err := DecodeBatch(&got, b, Limits{}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
	}
	clear(b)
	if !reflect.DeepEqual(&got, want) {
		t.Fatal("the batch aliases the message")
	}
}

func TestDecodeBatchReusesMemory(t *testing.T) {
	b := encode(t, testBatch())
	var dst Batch
	if err := DecodeBatch(&dst, b, Limits{}); err != nil {
		t.Fatal(err)
	}
	obs, mask := &dst.Obs[0], &dst.Mask[0]
	if err := DecodeBatch(&dst, b, Limits{}); err != nil {
		t.Fatal(err)
	}
	if obs != &dst.Obs[0] || mask != &dst.Mask[0] {
		t.Error("decoding into a batch of the same shape allocated anew")
	}
}

func TestBatchValidate(t *testing.T) {
	for name, spoil := range map[string]func(*Batch){
		"size":        func(b *Batch) { b.Size = 0 },
		"length":      func(b *Batch) { b.Length = 4 },
		"NaN obs":     func(b *Batch) { b.Obs[0] = float32(math.NaN()) },
		"inf reward":  func(b *Batch) { b.Reward[0] = float32(math.Inf(1)) },
		"action":      func(b *Batch) { b.Action[0] = 9 },
		"flag":        func(b *Batch) { b.Flags[0] = 64 },
		"mask":        func(b *Batch) { b.Mask = b.Mask[1:] },
		"versions":    func(b *Batch) { b.ParamVersion = nil },
		"ref outside": func(b *Batch) { b.Refs[0].Step = 3 },
	} {
		b := testBatch()
		spoil(b)
		if err := b.Validate(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefreshRoundTrip(t *testing.T) {
	for _, want := range []*Refresh{testRefresh(), {}} {
		got, err := DecodeRefresh(encode(t, want), Limits{})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
	if err := (&Refresh{Refs: make([]Ref, 2), Context: make([]float32, 3)}).Validate(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("ragged rows: %v", err)
	}
	if err := (&Refresh{Context: make([]float32, 3)}).Validate(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("rows without refs: %v", err)
	}
}

func TestSampleRequestRoundTrip(t *testing.T) {
	want := SampleRequest{Size: 16, Length: 64}
	got, err := DecodeSampleRequest(encode(t, want), Limits{})
	if err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := (SampleRequest{Size: 0, Length: 1}).AppendTo(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("size 0: %v", err)
	}
	if _, err := DecodeSampleRequest(encode(t, want), Limits{Steps: 20}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
}

// A message of one kind is not taken for another.
func TestMagicsDiffer(t *testing.T) {
	if err := DecodeBatch(new(Batch), encode(t, testChunk()), Limits{}); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	if _, err := DecodeRefresh(encode(t, testBatch()), Limits{}); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
}

func TestBatchGolden(t *testing.T) {
	for file, m := range map[string]appender{
		"batch_v1.hex": testBatch(), "refresh_v1.hex": testRefresh(), "request_v1.hex": SampleRequest{Size: 16, Length: 64},
	} {
		if got := encode(t, m); !bytes.Equal(got, golden(t, file)) {
			t.Errorf("%s: encoding changed:\n%s", file, hex.Dump(got))
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	fuzzSeeds(f, encode(f, testBatch()))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resealed(b, batchMagic)} {
			var batch, again Batch
			if err := DecodeBatch(&batch, b, Limits{}); err != nil {
				if Reason(err) == "other" {
					t.Fatalf("no reason in %v", err)
				}
				continue
			}
			if err := DecodeBatch(&again, encode(t, &batch), Limits{}); err != nil || !reflect.DeepEqual(again, batch) {
				t.Fatalf("%+v does not survive a round trip: %+v, %v", batch, again, err)
			}
		}
	})
}

func FuzzDecodeRefresh(f *testing.F) {
	fuzzSeeds(f, encode(f, testRefresh()))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resealed(b, refreshMagic)} {
			r, err := DecodeRefresh(b, Limits{})
			if err != nil {
				if Reason(err) == "other" {
					t.Fatalf("no reason in %v", err)
				}
				continue
			}
			again, err := DecodeRefresh(encode(t, r), Limits{})
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Fatalf("%+v does not survive a round trip: %+v, %v", r, again, err)
			}
		}
	})
}

func FuzzDecodeSampleRequest(f *testing.F) {
	fuzzSeeds(f, encode(f, SampleRequest{Size: 16, Length: 64}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resealed(b, requestMagic)} {
			if _, err := DecodeSampleRequest(b, Limits{}); err != nil && Reason(err) == "other" {
				t.Fatalf("no reason in %v", err)
			}
		}
	})
}

func TestBatchSetSequence(t *testing.T) {
	c := &Chunk{
		Steps: 2, ObsLen: 2, Actions: 9, Stride: 2, ContextLen: 1, ParamVersion: 7,
		Obs: []float32{1, 2, 3, 4}, Action: []uint16{8, 0}, Reward: []float32{5, 6}, Flags: []uint8{0, FlagEpisodeStart},
		Context: []float32{9}, Mask: make([]uint8, 2*MaskLen(9)),
	}
	mask := make([]bool, 18)
	mask[8], mask[9] = true, true
	PackMask(c.Mask[:2], mask[:9])
	PackMask(c.Mask[2:], mask[9:])
	var b Batch
	b.Resize(2, 2, 2, 9, 1)
	b.SetSequence(1, c)
	c.Mask = nil
	b.SetSequence(0, c)
	for name, ok := range map[string]bool{
		"obs":     slices.Equal(b.Obs[4:], c.Obs),
		"action":  slices.Equal(b.Action[2:], c.Action),
		"reward":  slices.Equal(b.Reward[2:], c.Reward),
		"flags":   slices.Equal(b.Flags[2:], c.Flags),
		"context": slices.Equal(b.Context, []float32{9, 9}),
		"version": slices.Equal(b.ParamVersion, []uint64{7, 7}),
		"mask":    slices.Equal(b.Mask[18:], mask) && !slices.Contains(b.Mask[:18], false),
	} {
		if !ok {
			t.Errorf("%s is not that of the chunk", name)
		}
	}
}
