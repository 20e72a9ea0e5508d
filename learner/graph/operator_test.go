package graph

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// times is elementwise x·y.
type times struct{ n int }

func (o times) Len() int { return o.n }
func (o times) Forward(in [][]float32, out []float32) error {
	for i, x := range in[0] {
		out[i] = x * in[1][i]
	}
	return nil
}
func (o times) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	for k := range din {
		for i := range din[k] {
			din[k][i] = dout[i] * in[1-k][i]
		}
	}
	return nil
}

var errBroken = errors.New("broken")

// broken fails where it is told to.
type broken struct{ forward, backward bool }

func (b *broken) Len() int { return 1 }
func (b *broken) Forward([][]float32, []float32) error {
	if b.forward {
		return errBroken
	}
	return nil
}
func (b *broken) Backward([][]float32, []float32, []float32, [][]float32) error {
	if b.backward {
		return errBroken
	}
	return nil
}

// Gradients of many uses of one vector are summed, in every run anew, and the
// sums do not write into what the operators keep.
func TestGradientsThatMeet(t *testing.T) {
	x, w := []float32{2, -3}, []float32{5, 7}
	b := NewBuilder()
	nx, nw := b.Input("x", x), b.Input("w", w)
	y := b.Apply("y", times{2}, []*Node{nx, nw}, 0, 1)
	var all []*Node
	for range 3 {
		all = append(all, b.Apply("z", times{2}, []*Node{y, nx}, 0, 1))
	}
	cost := b.Apply("sum", sum{}, append(all, y), 0, 1, 2, 3)
	p, err := b.Compile(cost, nx, nw)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for run := range 3 {
		x[0] = float32(run)
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		// cost = Σ 3·w·x² + w·x
		want := []float32{6*w[0]*x[0] + w[0], 6*w[1]*x[1] + w[1]}
		if got := p.Grad(0); !slices.Equal(got, want) {
			t.Errorf("run %d: gradient of x is %v, want %v", run, got, want)
		}
		want = []float32{3*x[0]*x[0] + x[0], 3*x[1]*x[1] + x[1]}
		if got := p.Grad(1); !slices.Equal(got, want) {
			t.Errorf("run %d: gradient of w is %v, want %v", run, got, want)
		}
		if got := p.Value(y); got[0] != w[0]*x[0] || got[1] != w[1]*x[1] {
			t.Errorf("run %d: value %v was overwritten", run, got)
		}
	}
}

// An operator's error ends the run and names the node; the next run starts
// afresh.
func TestOperatorErrors(t *testing.T) {
	x := []float32{1}
	op := &broken{}
	b := NewBuilder()
	nx := b.Input("x", x)
	cost := b.Apply("fragile", op, []*Node{nx}, 0)
	p, err := b.Compile(cost, nx)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, op.forward = range []bool{false, true, false} {
		for _, op.backward = range []bool{false, true, false} {
			err := p.Run(t.Context())
			if failed := op.forward || op.backward; failed != (err != nil) {
				t.Errorf("forward fails: %v, backward fails: %v, error %v", op.forward, op.backward, err)
			}
			// Gorgonia's own error does not unwrap.
			if err != nil && (!strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), "fragile")) {
				t.Errorf("error %q does not name its node and cause", err)
			}
		}
	}
}

// counted is the sum of its inputs, and ends a context in one of its runs.
type counted struct {
	sum
	runs, end int
	cancel    func()
}

func (c *counted) count() {
	c.runs++
	if c.runs == c.end {
		c.cancel()
	}
}

func (c *counted) Forward(in [][]float32, out []float32) error {
	c.count()
	return c.sum.Forward(in, out)
}

func (c *counted) Backward(in [][]float32, out, dout []float32, din [][]float32) error {
	c.count()
	return c.sum.Backward(in, out, dout, din)
}

// A run whose context ends goes on to the end of the operator that is running,
// forward or backward, and no further; the next run is as any other.
func TestRunEndsBetweenOperators(t *testing.T) {
	op := &counted{}
	b := NewBuilder()
	x := b.Input("x", []float32{3})
	cost := x
	const nodes = 3
	for range nodes {
		cost = b.Apply("counted", op, []*Node{cost}, 0)
	}
	p, err := b.Compile(cost, x)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for op.end = range 2*nodes + 1 {
		ctx, cancel := context.WithCancel(t.Context())
		op.runs, op.cancel = 0, cancel
		if op.end == 0 {
			cancel()
		}
		err := p.Run(ctx)
		if complete := op.end == 2*nodes; complete != (err == nil) || err != nil && !errors.Is(err, context.Canceled) || op.runs != op.end {
			t.Errorf("ended in run %d: %d operators ran, error %v", op.end, op.runs, err)
		}
		cancel()
		op.end = -1
		if err := p.Run(t.Context()); err != nil || p.Value(cost)[0] != 3 || p.Grad(0)[0] != 1 {
			t.Errorf("the run after it: %v, value %v, gradient %v", err, p.Value(cost), p.Grad(0))
		}
	}
}

// Nodes of one name and one operator are different nodes.
func TestEqualOperatorsAreDifferentNodes(t *testing.T) {
	b := NewBuilder()
	x := b.Input("x", []float32{3})
	one, two := b.Apply("same", times{1}, []*Node{x, x}, 0), b.Apply("same", times{1}, []*Node{x, x}, 0)
	if one == two || one.Hashcode() == two.Hashcode() {
		t.Error("two nodes were taken for one")
	}
}
