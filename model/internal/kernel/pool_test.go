package kernel

import (
	"fmt"
	"sync/atomic"
	"testing"
)

func TestPoolRun(t *testing.T) {
	for _, threads := range []int{0, 1, 2, 3, 8} {
		p := NewPool(threads)
		defer p.Close()
		if p.Threads() != max(threads, 1) {
			t.Errorf("a pool of %d threads says %d", threads, p.Threads())
		}
		for _, n := range []int{0, 1, 2, 3, 7, 8, 100} {
			seen := make([]atomic.Int32, n)
			var calls atomic.Int32
			p.Run(n, func(lo, hi int) {
				calls.Add(1)
				for i := lo; i < hi; i++ {
					seen[i].Add(1)
				}
			})
			for i := range seen {
				if v := seen[i].Load(); v != 1 {
					t.Errorf("%d threads: %d of %d was visited %d times", threads, i, n, v)
				}
			}
			if v := int(calls.Load()); v != min(n, max(threads, 1)) {
				t.Errorf("%d threads share %d in %d parts", threads, n, v)
			}
		}
	}
}

func TestPoolDeal(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 8} {
		p := NewPool(threads)
		defer p.Close()
		for _, n := range []int{0, 1, 2, 7, 100} {
			seen, busy := make([]atomic.Int32, n), make([]atomic.Int32, threads)
			p.Deal(n, func(thread, i int) {
				if busy[thread].Add(1) > 1 {
					t.Errorf("%d threads: two calls at once have number %d", threads, thread)
				}
				seen[i].Add(1)
				busy[thread].Add(-1)
			})
			for i := range seen {
				if v := seen[i].Load(); v != 1 {
					t.Errorf("%d threads: %d of %d was visited %d times", threads, i, n, v)
				}
			}
		}
	}
}

// TestThreadCount holds that rows shared among any number of threads have the same bits.
func TestThreadCount(t *testing.T) {
	onEachPath(t, func(t *testing.T) {
		for _, s := range []shape{{1, 10, 30}, {5, 10, 300}, {33, 100, 70}, {60, 40, 17}, {3, 100, 520}, {20, 140, 2048}} {
			a, b, want := random(1, s.m*s.k, 1), random(2, s.k*s.n, 1), make([]float32, s.m*s.n)
			var w Packed
			w.Pack(false, s.k, s.n, b, s.n)
			GemmPacked(s.m, a, s.k, &w, want, s.n, false)
			for _, threads := range []int{1, 2, 3} {
				p := NewPool(threads)
				got := make([]float32, s.m*s.n)
				p.Run(s.m, func(lo, hi int) { GemmPacked(hi-lo, a[lo*s.k:], s.k, &w, got[lo*s.n:], s.n, false) })
				p.Close()
				same(t, fmt.Sprintf("%v on %d threads", s, threads), got, want)
			}
		}
	})
}

func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector makes sync.Pool drop what it holds: run without")
		return
	}
	const m, n, k = 16, 40, 300
	a, b, c := random(1, m*k, 1), random(2, k*n, 1), make([]float32, m*n)
	idx := randomIndices(1, m*3, 13)
	p := NewPool(2)
	defer p.Close()
	var w Packed
	nothing := func(lo, hi int) {}
	onEachPath(t, func(t *testing.T) {
		for name, f := range map[string]func(){
			"Gemm":        func() { Gemm(false, false, m, n, k, a, k, b, n, c, n, false) },
			"Gemm turned": func() { Gemm(true, true, m, n, k, a, m, b, k, c, n, false) },
			"Pack":        func() { w.Pack(false, k, n, b, n) },
			"GemmPacked":  func() { GemmPacked(m, a, k, &w, c, n, false) },
			"ScatterRows": func() { ScatterRows(b, n, 13, idx, m, 3, c, n) },
			"Pool.Run":    func() { p.Run(10, nothing) },
			"Pool.Deal":   func() { p.Deal(10, nothing) },
			"GatherRows":  func() { GatherRows(c, n, idx, m, 3, b, n, 13) },
			"Softmax":     func() { Softmax(c, c, m, n) },
		} {
			w.Pack(false, k, n, b, n)
			f()
			if v := testing.AllocsPerRun(20, f); v != 0 {
				t.Errorf("%s makes %g allocations", name, v)
			}
		}
	})
}
