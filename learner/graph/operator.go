package graph

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"sync/atomic"
	"time"

	"github.com/chewxy/hm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Operator is a differentiable function of vectors.
type Operator interface {
	// Len is the length of the output.
	Len() int
	// Forward writes the whole output.
	Forward(in [][]float32, out []float32) error
	// Backward gets the inputs and the output of the last Forward and the
	// gradient of the output, and writes the whole of each din that is not nil.
	Backward(in [][]float32, out, dout []float32, din [][]float32) error
}

// instances numbers operator nodes, so that no two hash alike.
var instances atomic.Uint64

// gate is what the operators of one graph pass before they run: closed when the
// run's context has ended, so that a run ends between two operators.
type gate struct{ ctx context.Context }

// node is what all three kinds of Gorgonia operators here have in common.
type node struct {
	id    uint64
	name  string
	arity int
	value *tensor.Dense
	out   []float32
	in    [][]float32
	spent time.Duration // in the operator, all runs together
	gate  *gate
}

func newNode(gate *gate, name string, arity, length int) node {
	n := node{id: instances.Add(1), name: name, arity: arity, in: make([][]float32, arity), gate: gate}
	if length > 0 {
		n.out = make([]float32, length)
		n.value = tensor.New(tensor.WithShape(length), tensor.WithBacking(n.out))
	}
	return n
}

func (n *node) Arity() int { return n.arity }

func (n *node) Type() hm.Type {
	t := gorgonia.TensorType{Dims: 1, Of: tensor.Float32}
	types := make([]hm.Type, n.arity+1)
	for i := range types {
		types[i] = t
	}
	return hm.NewFnType(types...)
}

func (n *node) ReturnsPtr() bool     { return true }
func (n *node) CallsExtern() bool    { return false }
func (n *node) OverwritesInput() int { return -1 }
func (n *node) String() string       { return fmt.Sprintf("%s#%d", n.name, n.id) }

func (n *node) WriteHash(h hash.Hash) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n.id)
	h.Write(b[:])
	h.Write([]byte(n.name))
}

func (n *node) Hashcode() uint32 {
	h := fnv.New32a()
	n.WriteHash(h)
	return h.Sum32()
}

// read takes the vectors of the inputs, unless the run is to end.
func (n *node) read(values []gorgonia.Value) error {
	if err := n.gate.ctx.Err(); err != nil {
		return err
	}
	if len(values) != n.arity {
		return fmt.Errorf("graph: %s got %d inputs, want %d", n, len(values), n.arity)
	}
	for i, v := range values {
		x, ok := v.Data().([]float32)
		if !ok {
			return fmt.Errorf("graph: input %d of %s is %T, want a float32 vector", i, n, v.Data())
		}
		n.in[i] = x
	}
	return nil
}

// forward is an Operator as a Gorgonia operator.
type forward struct {
	node
	op   Operator
	diff []bool
	back *backward // nil until differentiated
}

func (f *forward) InferShape(...gorgonia.DimSizer) (tensor.Shape, error) {
	return tensor.Shape{len(f.out)}, nil
}

func (f *forward) Do(values ...gorgonia.Value) (gorgonia.Value, error) {
	if err := f.read(values); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := f.op.Forward(f.in, f.out); err != nil {
		return nil, fmt.Errorf("graph: %s: %w", f, err)
	}
	f.spent += time.Since(start)
	return f.value, nil
}

func (f *forward) DiffWRT(int) []bool { return f.diff }

// SymDiff adds one node that runs the backward step and, for each further
// input that is differentiable, a node that picks its gradient.
func (f *forward) SymDiff(inputs gorgonia.Nodes, output, grad *gorgonia.Node) (gorgonia.Nodes, error) {
	b := &backward{node: newNode(f.gate, f.name+"'", len(inputs)+2, 0), op: f.op, din: make([][]float32, len(inputs))}
	f.back = b
	b.values = make([]*tensor.Dense, len(inputs))
	for i, d := range f.diff {
		if !d {
			continue
		}
		b.din[i] = make([]float32, inputs[i].Shape().TotalSize())
		b.values[i] = tensor.New(tensor.WithShape(len(b.din[i])), tensor.WithBacking(b.din[i]))
		if b.value == nil {
			b.value, b.out = b.values[i], b.din[i]
		}
	}
	all := append(append(gorgonia.Nodes{}, inputs...), output, grad)
	run, err := gorgonia.ApplyOp(b, all...)
	if err != nil {
		return nil, err
	}
	grads := make(gorgonia.Nodes, len(inputs))
	for i, v := range b.values {
		switch {
		case v == nil:
		case v == b.value:
			grads[i] = run
		default:
			p := &pick{node: newNode(f.gate, fmt.Sprintf("%s'%d", f.name, i), 1, 0)}
			p.value, p.out = v, b.din[i]
			if grads[i], err = gorgonia.ApplyOp(p, run); err != nil {
				return nil, err
			}
		}
	}
	return grads, nil
}

// backward runs an operator's backward step; its value is the gradient of the
// first differentiable input.
type backward struct {
	node
	op     Operator
	din    [][]float32
	values []*tensor.Dense
}

func (b *backward) InferShape(...gorgonia.DimSizer) (tensor.Shape, error) {
	return tensor.Shape{len(b.out)}, nil
}

func (b *backward) Do(values ...gorgonia.Value) (gorgonia.Value, error) {
	if err := b.read(values); err != nil {
		return nil, err
	}
	n := len(b.din)
	start := time.Now()
	if err := b.op.Backward(b.in[:n], b.in[n], b.in[n+1], b.din); err != nil {
		return nil, fmt.Errorf("graph: %s: %w", b, err)
	}
	b.spent += time.Since(start)
	return b.value, nil
}

// pick is the gradient of a further input, computed by the backward node that
// it depends on.
type pick struct{ node }

func (p *pick) InferShape(...gorgonia.DimSizer) (tensor.Shape, error) {
	return tensor.Shape{len(p.out)}, nil
}

func (p *pick) Do(...gorgonia.Value) (gorgonia.Value, error) { return p.value, nil }
