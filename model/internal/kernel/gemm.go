package kernel

import "sync"

const (
	// panelWidth is the number of columns of B that lie together when packed.
	panelWidth = 16
	// blockK bounds the rows of a panel: 16 KB of B, which stay in the first-level cache (32 KB) while
	// the rows of A pass by.
	blockK = 256
	// blockN bounds the columns of a packed B that all rows of A pass by before the next ones do: 256 KB, half
	// of the second-level cache.
	blockN = 256
	// blockM bounds the rows of A that pass by those columns at a time: 96 KB.
	blockM = 96
	// directM and directN bound the rows and columns of a block of C that Gemm finishes before it begins
	// the next: 512 KB, a quarter of the second-level cache, beside half as much of A. With 512 rows of
	// A that are 4 KB apart they drove each other out there.
	directM, directN = 256, 512
	// packSlack is how far a body may write past the end of a block of A that it packs.
	packSlack = 16
)

// kBlock is the size of the blocks that k is cut into: equal ones, but for the last.
func kBlock(k int) int {
	blocks := (k + blockK - 1) / blockK
	return min(k, ((k+blocks-1)/blocks+7)&^7)
}

// equal is the size of the blocks of at most most that n is cut into: equal ones, but for the last.
func equal(n, most int) int {
	blocks := (n + most - 1) / most
	return (n + blocks - 1) / blocks
}

func panels(n int) int { return (n + panelWidth - 1) / panelWidth }

// check panics unless x holds a rows×cols matrix with rows ld apart.
func check(x []float32, rows, cols, ld int) {
	if cols > ld && rows > 1 {
		panic("kernel: rows of a matrix overlap")
	}
	if len(x) < (rows-1)*ld+cols {
		panic("kernel: a matrix is longer than its slice")
	}
}

// scratch holds the packed blocks of one running Gemm, and says what they are blocks of.
type scratch struct {
	a, b []float32
	x    operands
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (s *scratch) release() {
	s.x = operands{} // which would keep the matrices alive
	scratches.Put(s)
}

// competing tells distances between rows with which the rows of a tile, up to 12, fall into one set
// of the first-level cache, which has room for 8 lines, and drive each other out.
func competing(lda int) bool { return lda%1024 == 0 }

// apart copies the rows of a block of A (m×k) to where they do not compete: with 64 rows and k = 1024
// the product is a twelfth faster for it.
func (s *scratch) apart(m, k int, a []float32, lda int) (rows []float32, ld int) {
	ld = k + panelWidth
	s.a = grow(s.a, m*ld)
	for i := range m {
		copy(s.a[i*ld:][:k], a[i*lda:])
	}
	return s.a, ld
}

func grow(x []float32, n int) []float32 {
	if cap(x) < n {
		return make([]float32, n)
	}
	return x[:n]
}

// Gemm is, with op(X) the transpose of X where tA or tB is set,
//
//	C = op(A)·op(B)   // += when acc
//
// of sizes m×n, m×k and k×n. C must not overlap A or B.
func Gemm(tA, tB bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, acc bool) {
	if m == 0 || n == 0 {
		return
	}
	check(c, m, n, ldc)
	if k == 0 {
		if !acc {
			clearRows(c, m, n, ldc)
		}
		return
	}
	if tA {
		check(a, k, m, lda)
	} else {
		check(a, m, k, lda)
	}
	if tB {
		check(b, n, k, ldb)
	} else {
		check(b, k, n, ldb)
	}
	made.Add(2 * uint64(m) * uint64(n) * uint64(k))
	s := scratches.Get().(*scratch)
	defer s.release()
	x := &s.x
	x.tA, x.tB, x.lda, x.ldb = tA, tB, lda, ldb
	kb, mb, nb := kBlock(k), equal(m, directM), (equal(n, directN)+31)&^31 // whole strips
	for m0 := 0; m0 < m; m0 += mb {
		for n0 := 0; n0 < n; n0 += nb {
			c := c[m0*ldc+n0:]
			for k0 := 0; k0 < k; k0 += kb {
				x.a, x.b = corner(tA, a, m0, k0, lda), corner(tB, b, k0, n0, ldb)
				x.nextA, x.nextB = nil, nil
				if k0+kb < k {
					x.nextA, x.nextB = corner(tA, a, m0, k0+kb, lda), corner(tB, b, k0+kb, n0, ldb)
				}
				var from []float32 // what the products are added to
				if acc || k0 > 0 {
					from = c
				}
				use.direct(s, x, min(mb, m-m0), min(nb, n-n0), min(kb, k-k0), c, ldc, from, ldc)
			}
		}
	}
}

// operands are the blocks of A and B that a product multiplies, in the place where they lie, and those
// that it will multiply next, or nil.
type operands struct {
	tA, tB       bool
	a, b         []float32
	lda, ldb     int
	nextA, nextB []float32
}

// columns are those of op(B) from j on.
func (x *operands) columns(j int) []float32 { return corner(x.tB, x.b, 0, j, x.ldb) }

// corner is op(x) from row i and column j on.
func corner(t bool, x []float32, i, j, ld int) []float32 {
	if t {
		i, j = j, i
	}
	return x[i*ld+j:]
}

func clearRows(c []float32, m, n, ldc int) {
	for i := range m {
		clear(c[i*ldc:][:n])
	}
}

// Packed is a right-hand matrix (K×N) laid out for GemmPacked. Once packed it is only read, so that
// any number of threads may share it.
type Packed struct {
	K, N int
	data []float32 // blocks of K one after another, each as kernels.pack leaves it
}

// Pack fills p with op(B) (k×n), the transpose of b where tB is set. It reuses p's memory.
func (p *Packed) Pack(tB bool, k, n int, b []float32, ldb int) {
	p.K, p.N = k, n
	width := panels(n) * panelWidth
	p.data = grow(p.data, k*width)
	if k == 0 || n == 0 {
		return
	}
	if tB {
		check(b, n, k, ldb)
	} else {
		check(b, k, n, ldb)
	}
	kb := kBlock(k)
	for k0 := 0; k0 < k; k0 += kb {
		kk := min(kb, k-k0)
		if tB {
			use.pack(p.data[k0*width:], true, kk, n, b[k0:], ldb)
		} else {
			use.pack(p.data[k0*width:], false, kk, n, b[k0*ldb:], ldb)
		}
	}
}

// GemmPacked is
//
//	C = A·P   // += when acc
//
// of sizes m×p.N, m×p.K and p.K×p.N, with the same numbers as Gemm. A is read in place. It is meant
// for the many products with the same weights of few rows (8 to 64) that a step through time makes.
func GemmPacked(m int, a []float32, lda int, p *Packed, c []float32, ldc int, acc bool) {
	var d []float32
	if acc {
		d = c
	}
	gemmPacked(m, a, lda, p, c, ldc, d, ldc)
}

// GemmPackedFrom is
//
//	C = D + A·P
//
// with rows of D ldd apart; 0 adds one row, a bias, to all. It gives the numbers of copying D to C and
// adding the product, and saves the passage.
func GemmPackedFrom(m int, a []float32, lda int, p *Packed, c []float32, ldc int, d []float32, ldd int) {
	if m == 0 {
		return
	}
	if ldd == 0 {
		check(d, 1, p.N, p.N)
	} else {
		check(d, m, p.N, ldd)
	}
	gemmPacked(m, a, lda, p, c, ldc, d, ldd)
}

// gemmPacked is GemmPackedFrom, without D where that is nil.
func gemmPacked(m int, a []float32, lda int, p *Packed, c []float32, ldc int, d []float32, ldd int) {
	n := p.N
	if m == 0 || n == 0 {
		return
	}
	check(c, m, n, ldc)
	if p.K == 0 {
		for i := range m {
			if d == nil {
				clear(c[i*ldc:][:n])
			} else {
				copy(c[i*ldc:][:n], d[i*ldd:])
			}
		}
		return
	}
	check(a, m, p.K, lda)
	made.Add(2 * uint64(m) * uint64(n) * uint64(p.K))
	var s *scratch
	if competing(lda) && m >= 8 && n >= 4*panelWidth {
		s = scratches.Get().(*scratch)
		defer s.release()
	}
	width := panels(n) * panelWidth
	kb := kBlock(p.K)
	for k0 := 0; k0 < p.K; k0 += kb {
		kk := min(kb, p.K-k0)
		rows, ldr := a[k0:], lda
		if s != nil {
			rows, ldr = s.apart(m, kk, rows, lda)
		}
		for n0 := 0; n0 < n; n0 += blockN {
			b := p.data[k0*width+n0*kk:]
			for m0 := 0; m0 < m; m0 += blockM {
				var from []float32
				if d != nil {
					from = d[m0*ldd+n0:]
				}
				use.block(min(blockM, m-m0), min(blockN, n-n0), kk, rows[m0*ldr:], ldr, b, c[m0*ldc+n0:], ldc, from, ldd)
			}
		}
		d, ldd = c, ldc // the products of the next rows of P are added to what is there
	}
}
