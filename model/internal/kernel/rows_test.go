package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func randomIndices(seed uint64, n, classes int) []int32 {
	r := rand.New(rand.NewPCG(seed, 2))
	idx := make([]int32, n)
	for i := range idx {
		idx[i] = r.Int32N(int32(classes))
	}
	return idx
}

// TestGatherScatter compares with the plain loops, whose order of additions is part of the promise.
func TestGatherScatter(t *testing.T) {
	onEachPath(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 8, 10, 15, 16, 17, 64, 100, 200} {
			for _, c := range []struct{ rows, s, classes int }{{0, 3, 4}, {1, 1, 2}, {7, 16, 16}, {20, 4, 10}} {
				what := fmt.Sprintf("width %d of %v", n, c)
				idx := randomIndices(1, c.rows*c.s, c.classes)
				w, ld := random(2, c.s*c.classes*n, 1), n+3
				dst := random(3, c.rows*ld, 1)
				want, wantW := clone(dst), clone(w)
				for r := range c.rows {
					for j := range c.s {
						at := (j*c.classes + int(idx[r*c.s+j])) * n
						for i := range n {
							want[r*ld+i] += w[at+i]
						}
					}
				}
				GatherRows(dst, ld, idx, c.rows, c.s, w, n, c.classes)
				same(t, "gather "+what, dst, want)
				for r := range c.rows {
					for j := range c.s {
						at := (j*c.classes + int(idx[r*c.s+j])) * n
						for i := range n {
							wantW[at+i] += dst[r*ld+i]
						}
					}
				}
				ScatterRows(w, n, c.classes, idx, c.rows, c.s, dst, ld)
				same(t, "scatter "+what, w, wantW)
			}
		}
	})
}

func TestClassOutOfRange(t *testing.T) {
	w, x := make([]float32, 64), make([]float32, 16)
	for _, bad := range []int32{-1, 4} {
		for name, f := range map[string]func(){
			"gather":  func() { GatherRows(x, 16, []int32{bad}, 1, 1, w, 16, 4) },
			"scatter": func() { ScatterRows(w, 16, 4, []int32{bad}, 1, 1, x, 16) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s of class %d of 4 did not panic", name, bad)
					}
				}()
				f()
			}()
		}
	}
}

// TestShortSlices holds that a matrix that is too small panics in Go before assembly can reach
// beyond it.
func TestShortSlices(t *testing.T) {
	x := func(n int) []float32 { return make([]float32, n) }
	var p Packed
	p.Pack(false, 8, 16, x(128), 16)
	for name, f := range map[string]func(){
		"a":       func() { Gemm(false, false, 4, 16, 8, x(31), 8, x(128), 16, x(64), 16, false) },
		"a turn":  func() { Gemm(true, false, 4, 16, 8, x(31), 4, x(128), 16, x(64), 16, false) },
		"b":       func() { Gemm(false, false, 4, 16, 8, x(32), 8, x(127), 16, x(64), 16, false) },
		"b turn":  func() { Gemm(false, true, 4, 16, 8, x(32), 8, x(127), 8, x(64), 16, false) },
		"c":       func() { Gemm(false, false, 4, 16, 8, x(32), 8, x(128), 16, x(63), 16, false) },
		"overlap": func() { Gemm(false, false, 4, 16, 8, x(32), 8, x(128), 16, x(64), 15, false) },
		"packed":  func() { GemmPacked(4, x(31), 8, &p, x(64), 16, false) },
		"exp":     func() { Exp(x(7), x(8)) },
		"softmax": func() { Softmax(x(16), x(15), 2, 8) },
		"norm":    func() { RMSNormSiLU(x(16), x(2), x(16), x(7), 2, 8) },
		"gru":     func() { GRU(x(8), x(8), x(8), x(8), x(7), x(8), x(8), x(8)) },
		"gather":  func() { GatherRows(x(16), 16, []int32{0}, 1, 1, x(63), 16, 4) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: a slice too short did not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestSumsOfRows(t *testing.T) {
	const rows = 9
	onEachPath(t, func(t *testing.T) {
		for _, n := range []int{1, 7, 16, 37} {
			x, bias, dst := random(1, rows*(n+2), 1), random(2, n, 1), random(3, n, 1)
			want, wantX := clone(dst), clone(x)
			for r := range rows {
				for i := range n {
					want[i] += x[r*(n+2)+i]
					wantX[r*n+i] += bias[i]
				}
			}
			ColumnSums(dst, x, n+2, rows, n, true)
			same(t, "added columns", dst, want)
			ColumnSums(dst, x, n+2, rows, n, false)
			Axpy(want, -1, random(3, n, 1))
			near(t, "columns", dst, want, 1e-6)
			AddBias(x, bias, rows, n)
			same(t, "bias", x, wantX)
		}
	})
}
