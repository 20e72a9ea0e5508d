// Package graph puts hand-written numerics on a Gorgonia graph at coarse
// granularity.
//
// An [Operator] is a whole network, a scan over time or a loss: a function of
// float32 vectors with a derivative of its own. [Builder.Apply] makes it a
// node; Gorgonia then does what it is good at, finding the order of execution,
// the chain rule over the nodes and the sums of gradients that meet, and its
// tape machine runs the result. Some tens of nodes make a training step, so
// the machine's own cost disappears.
//
//	b := graph.NewBuilder()
//	w := b.Input("encoder", params)
//	x := b.Input("obs", obs)
//	y := b.Apply("encode", op, []*graph.Node{w, x}, 0) // differentiable in w
//	...
//	p, err := b.Compile(cost, w)
//	err = p.Run(ctx)
//	g := p.Grad(0)
//
// Every node is a vector; operators know the shapes. Operators own their
// buffers, so a step allocates nothing beyond what the tape machine itself
// does. Two operators may share state (the class indices of a latent, say, in
// place of its one-hot vectors) if an edge of the graph orders them.
//
// What Gorgonia v0.9.18 asks for, and this package does: every operator
// instance hashes a number of its own, because node identity is a 32-bit hash,
// and Compile refuses a graph in which two nodes collide; gradients are read
// from the gradient nodes, because bound dual values accumulate over steps;
// the machine is reset before each run, because a second run without it
// computes nothing; buffers are written whole in each run, because a sum of
// gradients may be formed in place.
package graph
