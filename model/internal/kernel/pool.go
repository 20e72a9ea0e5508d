package kernel

import "sync"

// Pool is a fixed set of threads, the caller's among them, that share the work of one operation. One
// goroutine at a time may use it. Its operations give the numbers of the functions of the same name,
// whatever the number of threads.
type Pool struct {
	threads int
	workers []*worker
	done    countdown
	exited  sync.WaitGroup

	// The operation being shared, kept here because a closure for each call would be garbage.
	gemm     gemmCall
	rows     rowsCall
	gemmPart func(lo, hi int)
	packPart func(lo, hi int)
	gathers  func(lo, hi int)
	scatters func(lo, hi int)
}

type part struct {
	lo, hi int
	f      func(lo, hi int)
}

type gemmCall struct {
	byRows        bool
	tA, tB        bool
	m, n, k       int
	a, b, c       []float32
	lda, ldb, ldc int
	acc           bool
	packed        *Packed
}

type rowsCall struct {
	x, w                   []float32
	idx                    []int32
	ldx, rows, s, n, class int
}

// NewPool starts threads-1 goroutines, which live until Close.
func NewPool(threads int) *Pool {
	p := &Pool{threads: max(threads, 1), done: countdown{wake: make(chan struct{}, 1)}}
	p.gemmPart, p.packPart = p.runGemm, p.runPacked
	p.gathers, p.scatters = p.runGather, p.runScatter
	for range p.threads - 1 {
		w := &worker{wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		p.exited.Go(func() { w.run(&p.done) })
	}
	return p
}

// Close ends the pool's goroutines and waits for them.
func (p *Pool) Close() {
	for _, w := range p.workers {
		w.post(part{})
	}
	p.workers = nil
	p.exited.Wait()
}

// Threads returns the number of threads, the caller's included.
func (p *Pool) Threads() int { return p.threads }

// Run calls f on contiguous parts of [0, n), one for each thread or fewer, and returns when all calls
// have returned. It allocates nothing when f is a value made beforehand.
func (p *Pool) Run(n int, f func(lo, hi int)) { p.run(n, 1, f) }

// Part tells the calls that Run(n, f) makes apart: it numbers the one that got lo from 0 to
// Threads()-1, for memory that a call needs to itself.
func (p *Pool) Part(lo, n int) int {
	parts := min(p.threads, n)
	return (lo*parts + n - 1) / n // Run's part i begins at i*n/parts, rounded down
}

// run is Run with parts that begin at multiples of unit.
func (p *Pool) run(n, unit int, f func(lo, hi int)) {
	if n <= 0 {
		return
	}
	units := (n + unit - 1) / unit
	parts := min(p.threads, units)
	p.done.left.Store(int64(parts - 1))
	for i := 1; i < parts; i++ {
		p.workers[i-1].post(part{i * units / parts * unit, min(n, (i+1)*units/parts*unit), f})
	}
	f(0, min(n, units/parts*unit))
	p.done.wait()
}

// split shares the call p.gemm by rows or by columns of C. Columns, in whole panels, are better where
// each thread has enough of them: then no two pack or read the same part of B, the larger operand.
func (p *Pool) split(f func(lo, hi int)) {
	g := &p.gemm
	g.byRows = g.m > g.n || panels(g.n) < 2*p.threads
	if g.byRows {
		p.run(g.m, 1, f)
	} else {
		p.run(g.n, panelWidth, f)
	}
	*g = gemmCall{}
}

// Gemm is the function Gemm shared by the pool's threads.
func (p *Pool) Gemm(tA, tB bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	if k == 0 {
		Gemm(tA, tB, m, n, k, a, lda, b, ldb, c, ldc, acc)
		return
	}
	p.gemm = gemmCall{tA: tA, tB: tB, m: m, n: n, k: k, a: a, b: b, c: c, lda: lda, ldb: ldb, ldc: ldc, acc: acc}
	p.split(p.gemmPart)
}

func (p *Pool) runGemm(lo, hi int) {
	g := &p.gemm
	if !g.byRows {
		b := lo
		if g.tB {
			b *= g.ldb
		}
		Gemm(g.tA, g.tB, g.m, hi-lo, g.k, g.a, g.lda, g.b[b:], g.ldb, g.c[lo:], g.ldc, g.acc)
		return
	}
	a := lo
	if !g.tA {
		a *= g.lda
	}
	Gemm(g.tA, g.tB, hi-lo, g.n, g.k, g.a[a:], g.lda, g.b, g.ldb, g.c[lo*g.ldc:], g.ldc, g.acc)
}

// GemmPacked is the function GemmPacked shared by the pool's threads.
func (p *Pool) GemmPacked(m int, a []float32, lda int, b *Packed, c []float32, ldc int, acc bool) {
	if b.K == 0 {
		GemmPacked(m, a, lda, b, c, ldc, acc)
		return
	}
	p.gemm = gemmCall{m: m, n: b.N, k: b.K, a: a, lda: lda, packed: b, c: c, ldc: ldc, acc: acc}
	p.split(p.packPart)
}

func (p *Pool) runPacked(lo, hi int) {
	g := &p.gemm
	if g.byRows {
		GemmPacked(hi-lo, g.a[lo*g.lda:], g.lda, g.packed, g.c[lo*g.ldc:], g.ldc, g.acc)
	} else {
		var d []float32
		if g.acc {
			d = g.c
		}
		gemmPacked(g.m, g.a, g.lda, g.packed, g.c, g.ldc, d, g.ldc, lo, hi)
	}
}

// GatherRows is the function GatherRows shared by the pool's threads, by rows.
func (p *Pool) GatherRows(dst []float32, ldd int, idx []int32, rows, s int, w []float32, n, classes int) {
	p.rows = rowsCall{x: dst, ldx: ldd, idx: idx, rows: rows, s: s, w: w, n: n, class: classes}
	p.run(rows, 1, p.gathers)
	p.rows = rowsCall{}
}

func (p *Pool) runGather(lo, hi int) {
	c := &p.rows
	GatherRows(c.x[lo*c.ldx:], c.ldx, c.idx[lo*c.s:hi*c.s], hi-lo, c.s, c.w, c.n, c.class)
}

// ScatterRows is the function ScatterRows shared by the pool's threads, by columns: rows may meet in
// the same row of dw.
func (p *Pool) ScatterRows(dw []float32, n, classes int, idx []int32, rows, s int, dy []float32, ldy int) {
	p.rows = rowsCall{x: dy, ldx: ldy, idx: idx, rows: rows, s: s, w: dw, n: n, class: classes}
	p.run(n, panelWidth, p.scatters)
	p.rows = rowsCall{}
}

func (p *Pool) runScatter(lo, hi int) {
	c := &p.rows
	scatterColumns(c.w, c.n, c.class, c.idx, c.rows, c.s, c.x, c.ldx, lo, hi)
}
