package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onEachPath runs a test once for every path that this machine has.
func onEachPath(t *testing.T, test func(t *testing.T)) {
	for _, p := range supported() {
		t.Run(p.name, func(t *testing.T) {
			before := use
			defer func() { use = before }()
			use = p
			test(t)
		})
	}
}

func random(seed uint64, n int, scale float64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

// near fails unless got and want agree to tolerance times the largest value of want.
func near(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	var top float64
	for _, v := range want {
		top = max(top, math.Abs(float64(v)))
	}
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= tolerance*top) {
			t.Fatalf("%s: value %d is %g, want %g (largest %g)", what, i, got[i], want[i], top)
		}
	}
}

// same fails unless got and want are the same bit for bit.
func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %g, want exactly %g", what, i, got[i], want[i])
		}
	}
}

func TestChoose(t *testing.T) {
	paths := []*kernels{{name: "avx2"}, &portable}
	for _, c := range []struct {
		name, want string
		fails      bool
	}{
		{"", "avx2", false}, {"portable", "portable", false}, {"avx512", "portable", true}, {"AVX2", "portable", true},
	} {
		p, err := choose(c.name, paths)
		if p.name != c.want || (err != nil) != c.fails {
			t.Errorf("%q gives %s and error %v", c.name, p.name, err)
		}
	}
}

// naive is the textbook product in float64.
func naive(tA, tB bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	for i := range m {
		for j := range n {
			var sum float64
			if acc {
				sum = float64(c[i*ldc+j])
			}
			for l := range k {
				x, y := a, b
				xi, yi := i*lda+l, l*ldb+j
				if tA {
					xi = l*lda + i
				}
				if tB {
					yi = j*ldb + l
				}
				sum += float64(x[xi]) * float64(y[yi])
			}
			c[i*ldc+j] = float32(sum)
		}
	}
}

type shape struct{ m, n, k int }

func shapes() []shape {
	var s []shape
	edges := []int{0, 1, 7, 8, 9, 15, 16, 17}
	for _, m := range edges {
		for _, n := range edges {
			for _, k := range edges {
				s = append(s, shape{m, n, k})
			}
		}
	}
	for m := 1; m <= 40; m++ {
		s = append(s, shape{m, 70, 33})
	}
	return append(s, shape{64, 128, 256}, shape{200, 50, 257}, shape{16, 300, 530}, shape{33, 255, 128}, shape{5, 700, 1030}, shape{30, 90, 1024},
		shape{600, 40, 300}, shape{270, 530, 20}) // more than one block of C
}

// TestGemm holds every path to the naive product and a packed operand to the same bits as a plain one.
func TestGemm(t *testing.T) {
	pool := random(1, 1<<21, 1) // operands begin at various places of it
	onEachPath(t, func(t *testing.T) {
		for _, s := range shapes() {
			for form := range 8 {
				tA, tB, acc := form&1 > 0, form&2 > 0, form&4 > 0
				lda, ldb, ldc := s.k+1, s.n+2, s.n+3
				ra, rb := s.m, s.k
				if tA {
					ra, lda = s.k, s.m+1
				}
				if tB {
					rb, ldb = s.n, s.k+2
				}
				a, b := pool[:ra*lda:ra*lda], pool[1003:][:rb*ldb:rb*ldb]
				got := clone(pool[2005:][:s.m*ldc])
				want := clone(got)
				naive(tA, tB, s.m, s.n, s.k, a, lda, b, ldb, want, ldc, acc)
				packed := clone(got)
				Gemm(tA, tB, s.m, s.n, s.k, a, lda, b, ldb, got, ldc, acc)
				what := fmt.Sprintf("%v tA=%v tB=%v acc=%v", s, tA, tB, acc)
				// Columns between n and ldc must be as they were: naive left them so too.
				near(t, what, got, want, 2e-6)
				if !tA {
					var p Packed
					p.Pack(tB, s.k, s.n, b, ldb)
					GemmPacked(s.m, a, lda, &p, packed, ldc, acc)
					same(t, what+" packed", packed, got)
					if !acc {
						continue
					}
					// From D and from a bias it is what copying them and adding gives.
					for _, ldd := range []int{s.n + 5, 0} {
						d := pool[4001:][:s.m*ldd+s.n]
						got, want := clone(pool[2005:][:s.m*ldc]), clone(pool[2005:][:s.m*ldc])
						for i := range s.m {
							copy(want[i*ldc:][:s.n], d[i*ldd:])
						}
						GemmPacked(s.m, a, lda, &p, want, ldc, true)
						GemmPackedFrom(s.m, a, lda, &p, got, ldc, d, ldd)
						same(t, fmt.Sprintf("%s from rows %d apart", what, ldd), got, want)
					}
				}
			}
		}
	})
}

// TestWidthsAgree holds that the paths with fused multiply-adds give the same products to the bit.
func TestWidthsAgree(t *testing.T) {
	defer func(before *kernels) { use = before }(use)
	for _, s := range []shape{{1, 130, 40}, {3, 70, 300}, {16, 128, 257}, {50, 100, 700}} {
		a, b := random(1, s.m*s.k, 1), random(2, s.k*s.n, 1)
		var want []float32
		for _, p := range supported() {
			if p == &portable {
				continue
			}
			use = p
			for _, tA := range []bool{false, true} {
				lda, got := s.k, make([]float32, s.m*s.n)
				x := a
				if tA { // the same A, turned
					lda, x = s.m, make([]float32, len(a))
					for i, v := range a {
						x[i%s.k*s.m+i/s.k] = v
					}
				}
				Gemm(tA, false, s.m, s.n, s.k, x, lda, b, s.n, got, s.n, false)
				if want == nil {
					want = got
				}
				same(t, fmt.Sprintf("%v, %s, tA=%v", s, p.name, tA), got, want)
			}
		}
	}
}
