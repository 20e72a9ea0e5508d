package protocol

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// A number that is none is found at every place, whatever stands beside it.
func TestFiniteFindsEveryPlace(t *testing.T) {
	good := []float32{math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -1, 0}
	for n := range 11 {
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
