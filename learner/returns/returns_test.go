package returns

import (
	"math"
	"slices"
	"testing"
)

func near(t *testing.T, what string, got []float32, want []float64, tolerance float64) {
	t.Helper()
	for i, w := range want {
		if math.Abs(float64(got[i])-w) > tolerance*max(1, math.Abs(w)) {
			t.Errorf("%s %d is %v, want %v", what, i, got[i], w)
		}
	}
}

// Returns are scaled by the moving range of their 5th to 95th percentile, which
// is at least one (DreamerV3, "Actor learning").
func TestScales(t *testing.T) {
	for _, test := range []struct {
		q, want float64
	}{{0, -4}, {0.5, 1}, {1, 10}, {0.25, -1}, {0.125, -2.5}, {0.95, 8.8}} {
		if got := quantile([]float32{-4, -1, 1, 4, 10}, test.q); math.Abs(float64(got)-test.want) > 1e-5 {
			t.Errorf("quantile %v is %v, want %v", test.q, got, test.want)
		}
	}
	if got := quantile([]float32{3}, 0.95); got != 3 {
		t.Errorf("quantile of one value is %v", got)
	}
	var p Range
	if p.Scale() != 1 {
		t.Errorf("range %v before the first update, want 1", p.Scale())
	}
	x := make([]float32, 101) // 0 to 100, unordered
	for i := range x {
		x[i] = float32(i * 37 % 101)
	}
	order := slices.Clone(x)
	var low, high float64
	for range 50 {
		p.Update(x, 0.01)
		low += 0.01 * (5 - low)
		high += 0.01 * (95 - high)
	}
	near(t, "percentiles", []float32{p.Low, p.High}, []float64{low, high}, 1e-5)
	near(t, "range", []float32{p.Scale()}, []float64{high - low}, 1e-5)
	if !slices.Equal(order, x) {
		t.Error("the update sorted its input")
	}
	small := Range{Low: 0.1, High: 0.6}
	if small.Scale() != 1 {
		t.Errorf("range %v, want at least 1", small.Scale())
	}
	// Or by the advantages' own size, free of the bias towards its start at zero.
	var size Size
	for range 3 {
		size.Update([]float32{3, -5}, 0.01)
		near(t, "size", []float32{size.Scale()}, []float64{4}, 1e-5)
	}
}
