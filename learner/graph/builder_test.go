package graph

import (
	"math"
	"testing"
	"time"
)

// square is y = a·x² elementwise with a scalar a.
type square struct{ n int }

func (s square) Len() int { return s.n }
func (s square) Forward(in [][]float32, out []float32) error {
	for i, x := range in[1] {
		out[i] = in[0][0] * x * x
	}
	return nil
}
func (s square) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	if din[0] != nil {
		din[0][0] = 0
		for i, x := range in[1] {
			din[0][0] += dout[i] * x * x
		}
	}
	if din[1] != nil {
		for i, x := range in[1] {
			din[1][i] = dout[i] * 2 * in[0][0] * x
		}
	}
	return nil
}

type sum struct{}

func (sum) Len() int { return 1 }
func (sum) Forward(in [][]float32, out []float32) error {
	out[0] = 0
	for _, x := range in {
		for _, v := range x {
			out[0] += v
		}
	}
	return nil
}
func (sum) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	for i := range in {
		for j := range din[i] {
			din[i][j] = dout[0]
		}
	}
	return nil
}

// A chain with a node used twice and two differentiable inputs must give the
// analytic gradient in every run, with inputs changed in place between runs.
func TestGradientOverRuns(t *testing.T) {
	a, x := []float32{2}, []float32{1, -2, 3}
	b := NewBuilder()
	na, nx := b.Input("a", a), b.Input("x", x)
	y := b.Apply("square", square{3}, []*Node{na, nx}, 0, 1)
	z := b.Apply("square", square{3}, []*Node{na, y}, 0, 1)
	cost := b.Apply("sum", sum{}, []*Node{y, z}, 0, 1)
	p, err := b.Compile(cost, na, nx)
	if err != nil {
		t.Fatal(err)
	}
	for run := range 4 {
		x[0] = float32(run)
		a[0] = 1 + float32(run)/2
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		// cost = Σ a x² + a (a x²)² ; d/da = Σ x² + 3a²x⁴ ; d/dx = 2ax + 4a³x³
		var da float64
		av := float64(a[0])
		for i, v := range x {
			v := float64(v)
			da += v*v + 3*av*av*v*v*v*v
			want := 2*av*v + 4*av*av*av*v*v*v
			if got := float64(p.Grad(1)[i]); math.Abs(got-want) > 1e-3*math.Abs(want)+1e-6 {
				t.Errorf("run %d: dx[%d] = %v, want %v", run, i, got, want)
			}
		}
		if got := float64(p.Grad(0)[0]); math.Abs(got-da) > 1e-3*da {
			t.Errorf("run %d: da = %v, want %v", run, got, da)
		}
	}
}

// A stopped input gets no gradient: the cost's derivative counts one path only.
func TestStopGradient(t *testing.T) {
	a, x := []float32{1}, []float32{3}
	b := NewBuilder()
	na, nx := b.Input("a", a), b.Input("x", x)
	through := b.Apply("square", square{1}, []*Node{na, nx}, 1)
	stopped := b.Apply("square", square{1}, []*Node{na, through})
	cost := b.Apply("sum", sum{}, []*Node{through, stopped}, 0, 1)
	p, err := b.Compile(cost, nx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Grad(0)[0]; got != 6 {
		t.Errorf("gradient %v, want 6: a stopped path leaked", got)
	}
	if got := p.Value(cost)[0]; got != 9+81 {
		t.Errorf("cost %v, want 90", got)
	}
}

func TestErrorsSurface(t *testing.T) {
	b := NewBuilder()
	x := b.Input("x", []float32{1})
	b.Apply("bad", square{1}, []*Node{x, nil}, 0)
	if _, err := b.Compile(x); err == nil {
		t.Error("a graph with a missing input compiled")
	}
}

// slow takes its time, a clock's tick at least.
type slow struct{ sum }

func (s slow) Forward(in [][]float32, out []float32) error {
	for start := time.Now(); time.Since(start) == 0; {
	}
	return s.sum.Forward(in, out)
}

func (s slow) Backward(in [][]float32, out, dout []float32, din [][]float32) error {
	for start := time.Now(); time.Since(start) == 0; {
	}
	return s.sum.Backward(in, out, dout, din)
}

// What operators spend adds up over runs, under their names.
func TestTimes(t *testing.T) {
	b := NewBuilder()
	x := b.Input("x", []float32{1, 2})
	p, err := b.Compile(b.Apply("slow", slow{}, []*Node{x}, 0), x)
	if err != nil {
		t.Fatal(err)
	}
	last := time.Duration(0)
	for range 3 {
		start := time.Now()
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		spent := map[string]time.Duration{}
		p.Times(spent)
		if spent["slow"] <= 0 || spent["slow'"] <= 0 {
			t.Fatalf("spent %v", spent)
		}
		all := spent["slow"] + spent["slow'"]
		if d := all - last; d <= 0 || d > time.Since(start) {
			t.Fatalf("a run of %v spent %v", time.Since(start), d)
		}
		last = all
	}
}
