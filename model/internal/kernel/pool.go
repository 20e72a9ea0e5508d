package kernel

import (
	"sync"
	"sync/atomic"
)

// Pool is a fixed set of threads, the caller's among them, that share the work of one operation. One
// goroutine at a time may use it.
type Pool struct {
	threads int
	workers []*worker
	done    countdown
	exited  sync.WaitGroup

	// The running Deal.
	next  atomic.Int64
	n     int
	f     func(thread, i int)
	dealF func(thread, _ int)
}

type part struct {
	lo, hi int
	f      func(lo, hi int)
}

// NewPool starts threads-1 goroutines, which live until Close.
func NewPool(threads int) *Pool {
	p := &Pool{threads: max(threads, 1), done: countdown{wake: make(chan struct{}, 1)}}
	p.dealF = p.deal
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
func (p *Pool) Run(n int, f func(lo, hi int)) {
	if n <= 0 {
		return
	}
	parts := min(p.threads, n)
	p.done.left.Store(int64(parts - 1))
	for i := 1; i < parts; i++ {
		p.workers[i-1].post(part{i * n / parts, (i + 1) * n / parts, f})
	}
	f(0, n/parts)
	p.done.wait()
}

// Deal calls f for each i in [0, n), in their order, on whichever thread is free, and returns when all
// calls have returned. A thread that the machine holds up is given fewer. The thread's number, from 0 to
// Threads()-1, is for memory that a call needs to itself. Deal allocates nothing when f is a value made
// beforehand.
func (p *Pool) Deal(n int, f func(thread, i int)) {
	p.next.Store(0)
	p.n, p.f = n, f
	p.Run(min(p.threads, n), p.dealF)
}

func (p *Pool) deal(thread, _ int) {
	for {
		i := int(p.next.Add(1)) - 1
		if i >= p.n {
			return
		}
		p.f(thread, i)
	}
}
