package kernel

import (
	"math"
	"testing"
)

// function is an element-wise function, its exact counterpart, its range of arguments and its error
// bound in units in the last place.
type function struct {
	name   string
	f      func(dst, x []float32)
	exact  func(float64) float64
	lo, hi float64
	ulps   float64
}

func sigmoid64(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

var functions = []function{
	{"exp", Exp, math.Exp, -103, 88.7, 1.1},
	{"log", Log, math.Log, 0, 1e38, 1},
	{"log near 1", Log, math.Log, 0.5, 2, 1},
	{"sigmoid", Sigmoid, sigmoid64, -87, 90, 3},
	{"tanh", Tanh, math.Tanh, -12, 12, 3},
	{"tanh near 0", Tanh, math.Tanh, -0.1, 0.1, 3},
	{"silu", SiLU, func(x float64) float64 { return x * sigmoid64(x) }, -80, 80, 3},
	{"symlog", Symlog, func(x float64) float64 { return math.Copysign(math.Log1p(math.Abs(x)), x) }, -1e6, 1e6, 1},
	{"symlog near 0", Symlog, func(x float64) float64 { return math.Copysign(math.Log1p(math.Abs(x)), x) }, -3, 3, 2},
	{"symexp", Symexp, func(x float64) float64 { return math.Copysign(math.Expm1(math.Abs(x)), x) }, -88, 88, 2},
	{"symexp near 0", Symexp, func(x float64) float64 { return math.Copysign(math.Expm1(math.Abs(x)), x) }, -1, 1, 2},
}

// ulps is the distance of got from want in units of want's last place as a float32.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	unit := float64(math.Nextafter32(float32(math.Abs(float64(w))), math.MaxFloat32)) - math.Abs(float64(w))
	return math.Abs(float64(got)-want) / unit
}

func TestAccuracy(t *testing.T) {
	const n = 200001
	x, y := make([]float32, n), make([]float32, n)
	onEachPath(t, func(t *testing.T) {
		for _, f := range functions {
			for i := range x {
				x[i] = float32(f.lo + (f.hi-f.lo)*float64(i)/(n-1))
			}
			f.f(y, x)
			var worst float64
			var at float32
			for i, v := range x {
				want := f.exact(float64(v))
				if math.IsInf(want, 0) && float64(y[i]) == want {
					continue
				}
				if d := ulps(y[i], want); !(d <= worst) {
					worst, at = d, v
				}
			}
			t.Logf("%s: %.2f ulps at %g", f.name, worst, at)
			if !(worst <= f.ulps) {
				t.Errorf("%s is %.1f units in the last place off at %g", f.name, worst, at)
			}
		}
	})
}

func TestSmallArguments(t *testing.T) {
	// The identity to first order, down to subnormal numbers.
	x := []float32{1e-3, -1e-3, 1e-6, -1e-6, 1e-20, -1e-20, 1e-37, 3e-40, 0}
	onEachPath(t, func(t *testing.T) {
		y := make([]float32, len(x))
		for _, f := range []function{{name: "tanh", f: Tanh, exact: math.Tanh}, {name: "symlog", f: Symlog, exact: functions[7].exact}, {name: "symexp", f: Symexp, exact: functions[9].exact}} {
			f.f(y, x)
			for i, v := range x {
				if d := ulps(y[i], f.exact(float64(v))); !(d <= 3) {
					t.Errorf("%s(%g) = %g, %.1f units in the last place off", f.name, v, y[i], d)
				}
			}
		}
		Log(y[:3], []float32{1e-40, math.SmallestNonzeroFloat32, 1.2e-38})
		for i, v := range []float32{1e-40, math.SmallestNonzeroFloat32, 1.2e-38} {
			if d := ulps(y[i], math.Log(float64(v))); !(d <= 2) {
				t.Errorf("log(%g) = %g, %.1f units in the last place off", v, y[i], d)
			}
		}
		Exp(y[:3], []float32{-103, -95, -87.5})
		for i, v := range []float64{-103, -95, -87.5} {
			if d := ulps(y[i], math.Exp(v)); !(d <= 2) {
				t.Errorf("exp(%g) = %g, %.1f units in the last place off", v, y[i], d)
			}
		}
	})
}

func TestSpecialValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	x := []float32{nan, inf, -inf, 1000, -1000, math.MaxFloat32, -math.MaxFloat32, 0, -1}
	is := func(a, b float32) bool { return a == b || a != a && b != b }
	top := float32(math.Log(math.MaxFloat32))
	onEachPath(t, func(t *testing.T) {
		for _, c := range []struct {
			name string
			f    func(dst, x []float32)
			want []float32
		}{
			{"exp", Exp, []float32{nan, inf, 0, inf, 0, inf, 0, 1, float32(math.Exp(-1))}},
			{"log", Log, []float32{nan, inf, nan, float32(math.Log(1000)), nan, top, nan, -inf, nan}},
			{"sigmoid", Sigmoid, []float32{nan, 1, 0, 1, 0, 1, 0, 0.5, float32(sigmoid64(-1))}},
			{"tanh", Tanh, []float32{nan, 1, -1, 1, -1, 1, -1, 0, float32(math.Tanh(-1))}},
			{"symlog", Symlog, []float32{nan, inf, -inf, float32(math.Log1p(1000)), -float32(math.Log1p(1000)), top, -top, 0, -math.Ln2}},
			{"symexp", Symexp, []float32{nan, inf, -inf, inf, -inf, inf, -inf, 0, 1 - math.E}},
		} {
			got := make([]float32, len(x))
			c.f(got, x)
			for i, v := range x {
				if !is(got[i], c.want[i]) && !(math.Abs(float64(got[i]-c.want[i])) <= 3e-7*math.Abs(float64(c.want[i]))) {
					t.Errorf("%s(%g) = %g, want %g", c.name, v, got[i], c.want[i])
				}
			}
		}
	})
}

// lengths meet every remainder of 8 and 16 lanes, and then some whole vectors.
var lengths = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 24, 31, 32, 33, 255, 1000}

// guarded returns n random values and a function that fails if a value next to them has changed.
func guarded(t *testing.T, seed uint64, n int) ([]float32, func()) {
	const guard = 12345
	x := make([]float32, n+32)
	for i := range x {
		x[i] = guard
	}
	copy(x[16:], random(seed, n, 2))
	return x[16 : 16+n : 16+n], func() {
		t.Helper()
		for i, v := range x {
			if (i < 16 || i >= 16+n) && v != guard {
				t.Fatalf("length %d: value %d outside the slice was written", n, i-16)
			}
		}
	}
}

// TestElementwise holds every path to plain formulas, at every length, in place and not.
func TestElementwise(t *testing.T) {
	unary := map[string]struct {
		f     func(dst, x []float32)
		exact func(d, x float64) float64
	}{
		"exp":     {Exp, func(_, x float64) float64 { return math.Exp(x) }},
		"sigmoid": {Sigmoid, func(_, x float64) float64 { return sigmoid64(x) }},
		"tanh":    {Tanh, func(_, x float64) float64 { return math.Tanh(x) }},
		"silu":    {SiLU, func(_, x float64) float64 { return x * sigmoid64(x) }},
		"symlog":  {Symlog, func(_, x float64) float64 { return math.Copysign(math.Log1p(math.Abs(x)), x) }},
		"symexp":  {Symexp, func(_, x float64) float64 { return math.Copysign(math.Expm1(math.Abs(x)), x) }},
		"add":     {Add, func(d, x float64) float64 { return d + x }},
		"axpy":    {func(dst, x []float32) { Axpy(dst, 0.75, x) }, func(d, x float64) float64 { return d + 0.75*x }},
		"scale":   {func(dst, _ []float32) { Scale(dst, 0.75) }, func(d, _ float64) float64 { return 0.75 * d }},
		"siluBackward": {func(dst, x []float32) { SiLUBackward(dst, x, dst) }, func(d, x float64) float64 {
			s := sigmoid64(x)
			return d * s * (1 + x*(1-s))
		}},
	}
	onEachPath(t, func(t *testing.T) {
		for name, c := range unary {
			for _, n := range lengths {
				x, checkX := guarded(t, 1, n)
				dst, checkDst := guarded(t, 2, n)
				want, inPlace := make([]float32, n), make([]float32, n)
				for i := range want {
					want[i] = float32(c.exact(float64(dst[i]), float64(x[i])))
					inPlace[i] = float32(c.exact(float64(x[i]), float64(x[i])))
				}
				c.f(dst, x)
				near(t, name, dst, want, 1e-6)
				c.f(x, x)
				near(t, name+" in place", x, inPlace, 1e-6)
				checkX()
				checkDst()
			}
		}
	})
}

func TestReductions(t *testing.T) {
	onEachPath(t, func(t *testing.T) {
		for _, n := range lengths {
			x, y := random(1, n, 1), random(2, n, 1)
			var dot, squares float64
			top := math.Inf(-1)
			for i, v := range x {
				dot += float64(v) * float64(y[i])
				squares += float64(v) * float64(v)
				top = max(top, float64(v))
			}
			if got := Dot(x, y); math.Abs(got-dot) > 1e-12*float64(n) {
				t.Errorf("dot of %d values is %g, want %g", n, got, dot)
			}
			if got := SumSquares(x); math.Abs(got-squares) > 1e-12*float64(n) {
				t.Errorf("sum of %d squares is %g, want %g", n, got, squares)
			}
			if got := Max(x); float64(got) != top {
				t.Errorf("largest of %d values is %g, want %g", n, got, top)
			}
		}
	})
	if v := Max([]float32{1, float32(math.NaN()), 2}); v == v {
		t.Errorf("largest of values with NaN is %g", v)
	}
}
