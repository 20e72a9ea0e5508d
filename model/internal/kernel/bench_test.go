package kernel

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// gflops reports a rate to be compared with BenchmarkPeak's on the same machine.
func gflops(b *testing.B, flops int) {
	b.ReportMetric(float64(flops)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

// ofPeak reports the rate of f, which makes so many operations, beside that of multiply-adds on registers
// alone: the two take turns of some 50 µs and more, and the medians are compared, so that what else
// runs on the machine counts little.
func ofPeak(b *testing.B, flops int, f func()) {
	const turn = 10_000_000 // operations
	if use.peak == nil {
		return
	}
	times := max(1, turn/flops)
	rounds := times * flops / use.perRound
	var ours, peaks []float64
	for range 101 {
		start := time.Now()
		use.peak(rounds)
		peaks = append(peaks, time.Since(start).Seconds()/float64(rounds*use.perRound))
		f() // brings back what the turn before has driven from the caches
		start = time.Now()
		for range times {
			f()
		}
		ours = append(ours, time.Since(start).Seconds()/float64(times*flops))
	}
	slices.Sort(ours)
	slices.Sort(peaks)
	b.ReportMetric(peaks[50]/ours[50], "of-peak")
}

func BenchmarkPeak(b *testing.B) {
	flops := 0
	for b.Loop() {
		flops = PeakFlops(100000)
	}
	gflops(b, flops)
}

func BenchmarkGemm(b *testing.B) {
	for _, s := range []shape{{64, 128, 128}, {64, 512, 512}, {256, 256, 256}, {1024, 512, 512}, {1024, 256, 1024}, {512, 512, 4096}} {
		for _, form := range []struct {
			name   string
			tA, tB bool
		}{{"NN", false, false}, {"NT", false, true}, {"TN", true, false}} {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", form.name, s.m, s.n, s.k), func(b *testing.B) {
				x, y, z := random(1, s.m*s.k, 1), random(2, s.k*s.n, 1), make([]float32, s.m*s.n)
				lda, ldb := s.k, s.n
				if form.tA {
					lda = s.m
				}
				if form.tB {
					ldb = s.k
				}
				f := func() { Gemm(form.tA, form.tB, s.m, s.n, s.k, x, lda, y, ldb, z, s.n, false) }
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
				gflops(b, 2*s.m*s.n*s.k)
				ofPeak(b, 2*s.m*s.n*s.k, f)
			})
		}
	}
}

func BenchmarkGemmPacked(b *testing.B) {
	for _, m := range []int{1, 2, 8, 16, 32, 64, 1024} {
		for _, s := range []shape{{m, 128, 128}, {m, 768, 256}, {m, 512, 1024}} {
			b.Run(fmt.Sprintf("%dx%dx%d", s.m, s.n, s.k), func(b *testing.B) {
				x, y, z := random(1, s.m*s.k, 1), random(2, s.k*s.n, 1), make([]float32, s.m*s.n)
				var p Packed
				p.Pack(false, s.k, s.n, y, s.n)
				f := func() { GemmPacked(s.m, x, s.k, &p, z, s.n, false) }
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
				gflops(b, 2*s.m*s.n*s.k)
				ofPeak(b, 2*s.m*s.n*s.k, f)
			})
		}
	}
}

// BenchmarkGemmPackedOthers takes other weights each time, as the layers of a network do: 16 matrices,
// which the second-level cache does not hold.
func BenchmarkGemmPackedOthers(b *testing.B) {
	for _, s := range []shape{{8, 512, 512}, {16, 512, 512}, {32, 512, 512}, {64, 512, 512}, {128, 512, 512}, {128, 1024, 1024}} {
		b.Run(fmt.Sprintf("%dx%dx%d", s.m, s.n, s.k), func(b *testing.B) {
			x, y, z := random(1, s.m*s.k, 1), random(2, s.k*s.n, 1), make([]float32, s.m*s.n)
			var p [16]Packed
			for i := range p {
				p[i].Pack(false, s.k, s.n, y, s.n)
			}
			i := 0
			f := func() {
				i++
				GemmPacked(s.m, x, s.k, &p[i%len(p)], z, s.n, false)
			}
			for b.Loop() {
				f()
			}
			gflops(b, 2*s.m*s.n*s.k)
			ofPeak(b, 2*s.m*s.n*s.k, f)
		})
	}
}

// BenchmarkThreads shares the rows of a product as the operators do.
func BenchmarkThreads(b *testing.B) {
	const m, n, k, rows = 1024, 512, 512, 32
	x, y, z := random(1, m*k, 1), random(2, k*n, 1), make([]float32, m*n)
	var w Packed
	w.Pack(false, k, n, y, n)
	blocks := func(lo, hi int) {
		for i := lo * rows; i < hi*rows; i += rows {
			GemmPacked(rows, x[i*k:], k, &w, z[i*n:], n, false)
		}
	}
	for _, threads := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			p := NewPool(threads)
			defer p.Close()
			b.ReportAllocs()
			for b.Loop() {
				p.Run(m/rows, blocks)
			}
			gflops(b, 2*m*n*k)
		})
	}
}

func BenchmarkPoolRun(b *testing.B) {
	p := NewPool(2)
	defer p.Close()
	nothing := func(lo, hi int) {}
	for b.Loop() {
		p.Run(2, nothing)
	}
}

func BenchmarkLoops(b *testing.B) {
	const n = 4096 // values, 16 KB: in the first-level cache where there are few slices
	var v [12][]float32
	for i := range v {
		v[i] = random(uint64(i), n, 1)
	}
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"Exp", func() { Exp(v[0], v[1]) }},
		{"Log", func() { Log(v[0], v[1]) }},
		{"Sigmoid", func() { Sigmoid(v[0], v[1]) }},
		{"Tanh", func() { Tanh(v[0], v[1]) }},
		{"Symlog", func() { Symlog(v[0], v[1]) }},
		{"SumSquares", func() { SumSquares(v[0]) }},
		{"Softmax/16", func() { Softmax(v[0], v[1], n/16, 16) }},
		{"LogSoftmax/16", func() { LogSoftmax(v[0], v[1], n/16, 16) }},
		{"SoftmaxBackward/16", func() { SoftmaxBackward(v[0], v[1], v[2], n/16, 16) }},
		{"RMSNormSiLU/128", func() { RMSNormSiLU(v[0], v[5], v[1], v[2], n/128, 128) }},
		{"RMSNormSiLUBackward/128", func() { // with the copies that keep the numbers from vanishing
			copy(v[0], v[1])
			copy(v[6], v[3])
			RMSNormSiLUBackward(v[0], v[4], v[6], v[5], v[2], n/128, 128)
		}},
		{"GRU", func() { GRU(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]) }},
		{"GRUBackward", func() { GRUBackward(v[8], v[9], v[10], v[11], v[0], v[1], v[3], v[5], v[6], v[7]) }},
		{"LaProp", func() { LaProp(v[8], v[9], v[10], v[11], 1e-3, 0.9, 0.999, 0.5, 0.5, 1e-20, 1) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.f()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/value")
		})
	}
}
