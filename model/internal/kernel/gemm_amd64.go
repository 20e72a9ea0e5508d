package kernel

// A tile is the part of C that one call of the assembly keeps in registers: rows × 16, 32 or 64, as
// many as give each of the two multiply-add units of a core the 8 to 12 independent chains that hide
// its latency of four or five cycles, within the 16 registers of AVX2 and the 32 of AVX-512.
const (
	tileRowsAVX2   = 6
	tileRowsAVX512 = 12
)

type tileKind int

const (
	avx2x16 tileKind = iota
	avx2x32
	avx2x64
	avx2x16T
	avx512x16
	avx512x32
	avx512x64
	avx512x16T
	avx512x32T
)

// runTile is a switch and no table of functions, so that arguments need not escape.
func runTile(kind tileKind, rows, k int, a *float32, lda int, b, c *float32, ldc int, d *float32, ldd int) {
	ldp := k * panelWidth
	switch kind {
	case avx2x16:
		tile16AVX2(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx2x32:
		tile32AVX2(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx2x64:
		tile64AVX2(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx2x16T:
		tile16TAVX2(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx512x16:
		tile16AVX512(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx512x32:
		tile32AVX512(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx512x64:
		tile64AVX512(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx512x16T:
		tile16TAVX512(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	case avx512x32T:
		tile32TAVX512(rows, k, a, lda, b, ldp, c, ldc, d, ldd)
	}
}

func blockAVX2(m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int) {
	switch m {
	case 1:
		block(avx2x16, avx2x64, 4, tileRowsAVX2, m, n, k, a, lda, b, c, ldc, d, ldd)
	case 2, 3:
		block(avx2x16, avx2x32, 2, tileRowsAVX2, m, n, k, a, lda, b, c, ldc, d, ldd)
	default:
		block(avx2x16, avx2x16, 1, tileRowsAVX2, m, n, k, a, lda, b, c, ldc, d, ldd)
	}
}

func packTAVX2(dst []float32, m, k int, a []float32, lda int) {
	packTiles(dst, tileRowsAVX2, m, k, a, lda)
}

func blockTAVX2(m, n, k int, a, b, c []float32, ldc int, d []float32, ldd int) {
	block(avx2x16T, avx2x16T, 1, tileRowsAVX2, m, n, k, a, k, b, c, ldc, d, ldd)
}

func blockAVX512(m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int) {
	if m <= 3 {
		block(avx512x16, avx512x64, 4, tileRowsAVX512, m, n, k, a, lda, b, c, ldc, d, ldd)
	} else {
		block(avx512x16, avx512x32, 2, tileRowsAVX512, m, n, k, a, lda, b, c, ldc, d, ldd)
	}
}

func packTAVX512(dst []float32, m, k int, a []float32, lda int) {
	packTiles(dst, tileRowsAVX512, m, k, a, lda)
}

func blockTAVX512(m, n, k int, a, b, c []float32, ldc int, d []float32, ldd int) {
	block(avx512x16T, avx512x32T, 2, tileRowsAVX512, m, n, k, a, k, b, c, ldc, d, ldd)
}

// block runs tiles of kind wide, which take the given number of panels, and of kind one for the
// panels that are left. A tile of the rows from i on finds its part of A at i*lda.
func block(one, wide tileKind, panels, most, m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int) {
	rows := cutRows(m, most)
	j := 0
	for ; j+panels*panelWidth <= n; j += panels * panelWidth {
		for t, i := 0, 0; i < m; t++ {
			runTile(wide, rows.at(t), k, &a[i*lda], lda, &b[j*k], &c[i*ldc+j], ldc, element(d, i*ldd+j), ldd)
			i += rows.at(t)
		}
	}
	for ; j+panelWidth <= n; j += panelWidth {
		for t, i := 0, 0; i < m; t++ {
			runTile(one, rows.at(t), k, &a[i*lda], lda, &b[j*k], &c[i*ldc+j], ldc, element(d, i*ldd+j), ldd)
			i += rows.at(t)
		}
	}
	if j == n {
		return
	}
	// The last panel is narrower than the tile.
	var edge [tileRowsAVX512 * panelWidth]float32
	for t, i := 0, 0; i < m; t++ {
		runTile(one, rows.at(t), k, &a[i*lda], lda, &b[j*k], &edge[0], panelWidth, nil, 0)
		for r := range rows.at(t) {
			to, sums := c[(i+r)*ldc+j:(i+r)*ldc+n], edge[r*panelWidth:]
			if d == nil {
				copy(to, sums)
				continue
			}
			for q, v := range d[(i+r)*ldd+j : (i+r)*ldd+n] {
				to[q] = v + sums[q]
			}
		}
		i += rows.at(t)
	}
}

// element is the address of x[i], or nil where there is no x.
func element(x []float32, i int) *float32 {
	if x == nil {
		return nil
	}
	return &x[i]
}

// cut is m rows cut into tiles that differ by one row at the most, since a tile of few rows leaves the
// units idle.
type cut struct{ rows, longer int }

func cutRows(m, most int) cut {
	tiles := (m + most - 1) / most
	return cut{m / tiles, m % tiles}
}

// at returns the number of rows of tile t.
func (c cut) at(t int) int {
	if t < c.longer {
		return c.rows + 1
	}
	return c.rows
}

// packTiles lays the transpose of a (k×m) out for the T kinds of tile: those of most rows or fewer one
// after another, and in each the k columns.
func packTiles(dst []float32, most, m, k int, a []float32, lda int) {
	// So few lines of A at a time that they outlast the passage of all tiles, even where lda is a
	// power of two and they compete for few places of the cache.
	const lines = 64
	rows := cutRows(m, most)
	for l := 0; l < k; l += lines {
		n := min(lines, k-l)
		for t, i := 0, 0; i < m; t++ {
			r := rows.at(t)
			to, from := dst[i*k+l*r:], a[l*lda+i:]
			// All but the last line, which is copied without writing past its end.
			if r <= 8 {
				packTile8AVX2(n-1, r, &to[0], &from[0], lda)
			} else {
				packTile16AVX2(n-1, r, &to[0], &from[0], lda)
			}
			copy(to[(n-1)*r:n*r], from[(n-1)*lda:])
			i += r
		}
	}
}

func packAVX2(dst []float32, tB bool, k, n int, b []float32, ldb int) {
	whole := n - n%panelWidth
	if tB {
		k8 := k &^ 7
		for j := 0; j < whole; j += panelWidth {
			to := dst[j*k:]
			if k8 > 0 {
				transpose16AVX2(k8/8, &to[0], &b[j*ldb], ldb)
			}
			packPanel(to[k8*panelWidth:], true, k-k8, panelWidth, b[j*ldb+k8:], ldb)
		}
		if whole < n {
			packPanel(dst[whole*k:], true, k, n-whole, b[whole*ldb:], ldb)
		}
		return
	}
	j := 0
	for ; j+4*panelWidth <= whole; j += 4 * panelWidth {
		copy64AVX2(k, &dst[j*k], k*panelWidth, &b[j], ldb)
	}
	for ; j < whole; j += panelWidth {
		copy16AVX2(k, &dst[j*k], k*panelWidth, &b[j], ldb)
	}
	if whole < n {
		packPanel(dst[whole*k:], false, k, n-whole, b[whole:], ldb)
	}
}
