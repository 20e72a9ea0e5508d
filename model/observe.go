package model

import "github.com/dreamfleet/dreamfleet/model/internal/kernel"

// Sequences is what the RSSM reads besides the embeddings: B sequences of T
// steps, time-major (row t·B + b).
type Sequences struct {
	Start      States    // B states before the first step
	First      []bool    // T·B: the state is reset before this step
	PrevAction []int32   // T·B: the action that led here, -1 where there is none
	Draw       []float32 // T·B·DrawLen random numbers for the posterior samples
}

// scanRows divides the rows of the batch among threads, each of which takes its rows through all time
// steps together: the more there are, the seldomer all weights are read.
const scanRows = 8

// embedUnit divides the rows of all steps among threads, where they need no
// order.
const embedUnit = 32

// Observer rolls the RSSM along replayed sequences, forward and backward
// through time. Only the chain of states is computed step by step; what
// depends on the embeddings alone, and all weight gradients, are formed over
// all time steps at once.
type Observer struct {
	cfg  Config
	t, b int
	pool *Pool
	core *core
	post posterior

	a      *coreCache
	hidden *cache
	soft   []float32
	embed  []float32 // the embeddings' share of the posterior's hidden layer

	packs  *jobs
	params []float32
	grads  *jobs
	grad   []float32

	seq               *Sequences
	states            States
	logits            []float32
	ddeter, dz, dlog  []float32
	dhidden, sback    []float32
	dcarry, dcarryZ   []float32
	forwardF, backF   func(lo, hi int)
	embedF, dembedF   func(lo, hi int)
	embedIn, dembedIn []float32
}

// NewObserver makes a runner for b sequences of t steps.
func NewObserver(c Config, t, b int, pool *Pool) *Observer {
	nets := newNetworks(c)
	rows := t * b
	o := &Observer{
		cfg: c, t: t, b: b, pool: pool, core: nets.core, post: nets.post,
		a:      newCoreCache(&c, rows, scanRows, true),
		hidden: newCache(rows, scanRows, c.Hidden, true),
		soft:   make([]float32, rows*c.StochLen()),
		embed:  make([]float32, rows*c.Hidden),
		dlog:   make([]float32, rows*c.LogitsLen()), dhidden: make([]float32, b*c.Hidden),
		sback:  make([]float32, b*c.StochLen()),
		dcarry: make([]float32, b*c.Deter), dcarryZ: make([]float32, b*c.StochLen()),
	}
	// Partial sums of the norms' gradients are kept for each block of the
	// batch, so their number does not grow with time.
	n := blocks(b, scanRows)
	for _, k := range []*cache{o.hidden, o.a.mix, o.a.in[0], o.a.in[1], o.a.in[2]} {
		k.dscale = k.dscale[:n*k.n]
	}
	h := o.post.hidden
	o.packs = newJobs(pool, append(o.core.packs(&o.params, true), packs([]*layer{h, o.post.out}, &o.params, true)...))
	o.grads = newJobs(pool, append([]func(){
		func() { o.post.out.denseGrad(o.grad, 0, o.hidden.y, c.Hidden, o.dlog) },
		func() { h.denseGrad(o.grad, 0, o.states.Deter, c.Deter, o.hidden.pre) },
		func() { h.denseGrad(o.grad, 1, o.embedIn, c.Units, o.hidden.pre) },
		func() {
			h.biasGrad(o.grad, o.hidden.pre)
			h.scaleGrad(o.hidden, o.grad)
			o.post.out.biasGrad(o.grad, o.dlog)
		},
	}, o.core.grads(o.a, &o.grad)...))
	o.forwardF, o.backF = o.forwardBlocks, o.backBlocks
	o.embedF, o.dembedF = o.embedRows, o.dembedRows
	return o
}

// Forward writes the posterior states and the posterior's logits of every
// step. embed holds the encoder's output, T·B × Units.
func (o *Observer) Forward(params, embed []float32, seq *Sequences, states States, logits []float32) {
	o.params = params
	o.packs.run()
	o.seq, o.states, o.logits, o.embedIn = seq, states, logits, embed
	o.pool.Run(blocks(o.t*o.b, embedUnit), o.embedF)
	o.pool.Run(blocks(o.b, scanRows), o.forwardF)
}

func (o *Observer) embedRows(from, to int) {
	c := &o.cfg
	lo, hi := from*embedUnit, min(to*embedUnit, o.t*o.b)
	pre := o.embed[lo*c.Hidden : hi*c.Hidden]
	o.post.hidden.start(1, pre, o.embedIn[lo*c.Units:hi*c.Units], c.Units)
}

func (o *Observer) forwardBlocks(from, to int) {
	lo, hi := from*scanRows, min(to*scanRows, o.b)
	for t := range o.t {
		o.step(t, lo, hi)
	}
}

// step advances sequences [lo, hi) to step t.
func (o *Observer) step(t, lo, hi int) {
	c := &o.cfg
	s, e := t*o.b+lo, t*o.b+hi
	from := o.a.from.Rows(*c, s, e)
	if t == 0 {
		from.Copy(o.seq.Start.Rows(*c, lo, hi))
	} else {
		from.Copy(o.states.Rows(*c, s-o.b, e-o.b))
	}
	copy(o.a.action[s:e], o.seq.PrevAction[s:e])
	for r := s; r < e; r++ {
		if o.seq.First[r] {
			row := o.a.from.Rows(*c, r, r+1)
			clear(row.Deter)
			row.Stoch.clear()
			o.a.action[r] = -1
		}
	}
	o.core.forward(o.a, s, e)
	next := o.states.Rows(*c, s, e)
	copy(next.Deter, o.a.next[s*c.Deter:e*c.Deter])

	pre := o.hidden.preRows(s, e)
	o.post.hidden.startFrom(0, pre, next.Deter, c.Deter, o.embed[s*c.Hidden:e*c.Hidden])
	o.post.hidden.activate(o.hidden, s, e)
	w := c.LogitsLen()
	logits := o.logits[s*w : e*w]
	o.post.out.start(0, logits, o.hidden.yRows(s, e), c.Hidden)
	d, n := c.DrawLen(), c.StochLen()
	c.sample(next.Stoch, o.soft[s*n:e*n], logits, o.seq.Draw[s*d:e*d])
}

// Backward takes the gradients of every step's deterministic state, dense
// stochastic state and logits, and writes those of the parameters and of the
// embeddings. ddeter and dz are used as scratch.
func (o *Observer) Backward(ddeter, dz, dlogits, grad, dembed []float32) {
	o.ddeter, o.dz, o.dembedIn = ddeter, dz, dembed
	copy(o.dlog, dlogits)
	for _, k := range []*cache{o.hidden, o.a.mix, o.a.in[0], o.a.in[1], o.a.in[2]} {
		clear(k.dscale)
	}
	o.pool.Run(blocks(o.b, scanRows), o.backF)
	o.pool.Run(blocks(o.t*o.b, embedUnit), o.dembedF)

	o.grad = grad
	o.grads.run()
}

func (o *Observer) backBlocks(from, to int) {
	lo, hi := from*scanRows, min(to*scanRows, o.b)
	for t := o.t - 1; t >= 0; t-- {
		o.stepBack(t, lo, hi, from)
	}
}

func (o *Observer) stepBack(t, lo, hi, block int) {
	c := &o.cfg
	s, e := t*o.b+lo, t*o.b+hi
	d, n, w, dr := c.Deter, c.StochLen(), c.LogitsLen(), c.DrawLen()

	dlog := o.dlog[s*w : e*w]
	c.sampleBack(dlog, o.dz[s*n:e*n], o.soft[s*n:e*n], o.logits[s*w:e*w], o.seq.Draw[s*dr:e*dr], o.sback[lo*n:hi*n])
	dh := o.dhidden[lo*c.Hidden : hi*c.Hidden]
	o.post.out.denseBack(0, dh, c.Hidden, dlog, false)
	dpre := o.post.hidden.activateBack(o.hidden, dh, s, e, block)
	ddeter := o.ddeter[s*d : e*d]
	o.post.hidden.denseBack(0, ddeter, d, dpre, true)

	dfrom, dfromZ := o.dcarry[lo*d:hi*d], o.dcarryZ[lo*n:hi*n]
	clear(dfrom)
	clear(dfromZ)
	o.core.back(o.a, ddeter, dfrom, dfromZ, s, e, block)
	if t == 0 {
		return
	}
	for r := s; r < e; r++ {
		if o.seq.First[r] {
			continue
		}
		i := r - s
		kernel.Add(o.ddeter[(r-o.b)*d:(r-o.b+1)*d], dfrom[i*d:(i+1)*d])
		kernel.Add(o.dz[(r-o.b)*n:(r-o.b+1)*n], dfromZ[i*n:(i+1)*n])
	}
}

func (o *Observer) dembedRows(from, to int) {
	c := &o.cfg
	lo, hi := from*embedUnit, min(to*embedUnit, o.t*o.b)
	o.post.hidden.denseBack(1, o.dembedIn[lo*c.Units:hi*c.Units], c.Units, o.hidden.preRows(lo, hi), false)
}
