package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

// A number that is none is found at every place, whatever stands beside it.
func TestFiniteFindsEveryPlace(t *testing.T) {
	good := []float32{math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -1, 0}
	for n := range 27 {
		x := make([]float32, n)
		for i := range x {
			x[i] = good[i%len(good)]
		}
		if err := finite32("x", x); err != nil {
			t.Errorf("%d finite numbers: %v", n, err)
		}
		for i := range x {
			for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
				x[i] = float32(bad)
				if err := finite32("x", x); !errors.Is(err, ErrCorrupt) || !strings.HasPrefix(err.Error(), fmt.Sprintf("x[%d] ", i)) {
					t.Errorf("%v at %d of %d: %v", bad, i, n, err)
				}
			}
			x[i] = good[i%len(good)]
		}
	}
}

// A machine of the other byte order writes and reads the same columns.
func TestColumnsInEitherOrder(t *testing.T) {
	defer func(was bool) { wireOrder = was }(wireOrder)
	wireOrder = false
	chunk := testChunk()
	if got, want := encode(t, chunk), golden(t, "chunk_v1.hex"); !bytes.Equal(got, want) {
		t.Errorf("chunk is\n%swant\n%s", hex.Dump(got), hex.Dump(want))
	}
	if got, err := DecodeChunk(golden(t, "chunk_v1.hex"), Limits{}); err != nil || !reflect.DeepEqual(got, chunk) {
		t.Errorf("chunk is read as %+v, %v", got, err)
	}
	batch := testBatch()
	if got, want := encode(t, batch), golden(t, "batch_v1.hex"); !bytes.Equal(got, want) {
		t.Errorf("batch is\n%swant\n%s", hex.Dump(got), hex.Dump(want))
	}
	got := new(Batch)
	if err := DecodeBatch(got, golden(t, "batch_v1.hex"), Limits{}); err != nil || !reflect.DeepEqual(got, batch) {
		t.Errorf("batch is read as %+v, %v", got, err)
	}
}

// The version before the newest is read, and no other: what it has of fields tells
// its layout.
func TestVersionBefore(t *testing.T) {
	message := func(version uint8, fields int) []byte {
		e := newEncoder(nil, "DFTX", layout{make([]int, version), version})
		e.b = e.b[:len(e.b)-1] // the body's head
		e.array(fields)
		for range fields {
			e.uint(7)
		}
		b, err := e.seal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	three := layout{[]int{1, 2, 3}, 2}
	for version := range uint8(6) {
		if version == 0 {
			continue
		}
		d := newDecoder(message(version, int(version)), "DFTX", three, Limits{})
		for d.err == nil && len(d.b) > d.r.at {
			d.uint("field", 7)
		}
		err := d.close()
		switch version {
		case 2, 3:
			if err != nil {
				t.Errorf("version %d: %v", version, err)
			}
		default:
			if want := fmt.Sprintf("DFTX message of version %d, this program reads 2 and 3", version); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), want) {
				t.Errorf("version %d: %v, want %q", version, err, want)
			}
		}
	}
	if b := newEncoder(nil, "DFTX", three).b; b[offsetVersion] != 2 || b[prefixLen] != 0x92 {
		t.Errorf("in the first release that reads version 3, %d is written, with a body of %#x", b[offsetVersion], b[prefixLen])
	}
	if err := newDecoder(message(2, 3), "DFTX", three, Limits{}).close(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("version 2 with version 3's fields: %v", err)
	}
}

// Of every message version 1 is the newest, and the only one: its fixtures are read,
// and the versions around it refused by a reason that is counted.
func TestVersionsOfMessages(t *testing.T) {
	for name, decode := range map[string]func([]byte) error{
		"chunk":   func(b []byte) error { _, err := DecodeChunk(b, Limits{}); return err },
		"batch":   func(b []byte) error { return DecodeBatch(new(Batch), b, Limits{}) },
		"refresh": func(b []byte) error { _, err := DecodeRefresh(b, Limits{}); return err },
		"request": func(b []byte) error { _, err := DecodeSampleRequest(b, Limits{}); return err },
	} {
		b := golden(t, name+"_v1.hex")
		if err := decode(b); err != nil {
			t.Errorf("%s of version 1: %v", name, err)
		}
		for _, version := range []byte{0, 2} {
			b[offsetVersion] = version
			want := fmt.Sprintf("message of version %d, this program reads 1", version)
			if err := decode(b); Reason(err) != "version" || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of version %d: %v", name, version, err)
			}
		}
	}
}
