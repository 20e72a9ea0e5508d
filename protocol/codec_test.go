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
