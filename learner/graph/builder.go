package graph

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// Node is a vector in a graph.
type Node = gorgonia.Node

// Builder collects the nodes of a graph. Its methods may be chained without
// looking at errors: the first one is kept and returned by Compile.
type Builder struct {
	g    *gorgonia.ExprGraph
	gate *gate
	ops  []*forward
	err  error
}

// NewBuilder starts an empty graph.
func NewBuilder() *Builder { return &Builder{g: gorgonia.NewGraph(), gate: &gate{}} }

// Input adds a vector that the caller owns. Its memory is read in place by
// every run, so new values are simply written there.
func (b *Builder) Input(name string, data []float32) *Node {
	t := tensor.New(tensor.WithShape(len(data)), tensor.WithBacking(data))
	return gorgonia.NewVector(b.g, tensor.Float32, gorgonia.WithShape(len(data)), gorgonia.WithName(name), gorgonia.WithValue(t))
}

// Apply adds op as a node. Gradients flow to the inputs whose indices are
// given and stop at the others.
func (b *Builder) Apply(name string, op Operator, inputs []*Node, differentiable ...int) *Node {
	if b.err != nil {
		return nil
	}
	for i, n := range inputs {
		if n == nil {
			b.err = fmt.Errorf("graph: input %d of %s is missing", i, name)
			return nil
		}
	}
	f := &forward{node: newNode(b.gate, name, len(inputs), op.Len()), op: op, diff: make([]bool, len(inputs))}
	for _, i := range differentiable {
		f.diff[i] = true
	}
	b.ops = append(b.ops, f)
	n, err := gorgonia.ApplyOp(f, inputs...)
	if err != nil {
		b.err = fmt.Errorf("graph: adding %s: %w", name, err)
	}
	return n
}

// Program is a compiled graph with the gradients of its cost.
type Program struct {
	machine gorgonia.VM
	grads   gorgonia.Nodes
	gate    *gate
	ops     []*forward
}

// ErrCollision says that two nodes of a graph have one hash, which Gorgonia
// would take for the same node.
var ErrCollision = errors.New("graph: two nodes have the same hash")

// Compile differentiates cost, a vector of length one, with respect to the
// given inputs and prepares the machine.
func (b *Builder) Compile(cost *Node, wrt ...*Node) (*Program, error) {
	if b.err != nil {
		return nil, b.err
	}
	one := b.Input("one", []float32{1})
	grads, err := gorgonia.Backpropagate(gorgonia.Nodes{cost}, gorgonia.Nodes{one}, wrt)
	if err != nil {
		return nil, fmt.Errorf("graph: differentiating: %w", err)
	}
	seen := map[uint32]*Node{}
	for _, n := range b.g.AllNodes() {
		h := n.Hashcode()
		if other, ok := seen[h]; ok && other != n {
			return nil, fmt.Errorf("%w: %v and %v", ErrCollision, other, n)
		}
		seen[h] = n
	}
	return &Program{machine: gorgonia.NewTapeMachine(b.g), grads: grads, gate: b.gate, ops: b.ops}, nil
}

// Run executes the graph once. When ctx ends meanwhile, no further operator is
// begun, and the error is that of ctx.
func (p *Program) Run(ctx context.Context) error {
	p.gate.ctx = ctx
	p.machine.Reset()
	err := p.machine.RunAll()
	if cause := ctx.Err(); err != nil && cause != nil {
		return cause // Gorgonia's own error does not unwrap
	}
	return err
}

// Grad is the gradient with respect to the i-th input given to Compile, as of
// the last Run. The memory belongs to the program.
func (p *Program) Grad(i int) []float32 {
	return p.grads[i].Value().Data().([]float32)
}

// Times adds what the operators have spent so far to spent, by the names given
// to Apply; the backward steps' names end in an apostrophe. What a run takes
// beyond their sum is Gorgonia's own.
func (p *Program) Times(spent map[string]time.Duration) {
	for _, f := range p.ops {
		spent[f.name] += f.spent
		if f.back != nil {
			spent[f.back.name] += f.back.spent
		}
	}
}

// Value is a node's vector as of the last Run.
func (p *Program) Value(n *Node) []float32 { return n.Value().Data().([]float32) }

// Close releases the machine.
func (p *Program) Close() error { return p.machine.Close() }
