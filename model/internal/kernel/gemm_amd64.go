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
	avx2x16F
	avx2x16TF
	avx2x16S
	avx2x16SF
	avx512x16
	avx512x32
	avx512x64
	avx512x16T
	avx512x32T
	avx512x32F
	avx512x32TF
	avx512x32S
	avx512x32SF
)

// A width is the tiles of one vector width.
type width struct {
	most  int // rows of a tile
	least int // rows of the tiles that read operands in their place
	// Names end in T where A is packed columns, in S where it is columns in their place, and in F where
	// B is in its place. All but oneT, for one panel, take the number of panels.
	oneT, wide, wideF, wideT, wideTF, wideS, wideSF tileKind
	panels                                          int
}

var (
	widthAVX2   = width{tileRowsAVX2, 3, avx2x16T, avx2x16, avx2x16F, avx2x16T, avx2x16TF, avx2x16S, avx2x16SF, 1}
	widthAVX512 = width{tileRowsAVX512, 6, avx512x16T, avx512x32, avx512x32F, avx512x32T, avx512x32TF, avx512x32S, avx512x32SF, 2}
)

// runTile is a switch and no table of functions, so that arguments need not escape.
func runTile(kind tileKind, rows, k int, a *float32, lda int, b *float32, ldb int, c *float32, ldc int, d *float32, ldd int, pa, pb *float32, w wanted) {
	switch kind {
	case avx2x16:
		tile16AVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x32:
		tile32AVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x64:
		tile64AVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x16T:
		tile16TAVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x16F:
		tile16FAVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x16TF:
		tile16TFAVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x16S:
		tile16SAVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx2x16SF:
		tile16SFAVX2(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x16:
		tile16AVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x32:
		tile32AVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x64:
		tile64AVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x16T:
		tile16TAVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x32T:
		tile32TAVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x32F:
		tile32FAVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x32TF:
		tile32TFAVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x32S:
		tile32SAVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	case avx512x32SF:
		tile32SFAVX512(rows, k, a, lda, b, ldb, c, ldc, d, ldd, pa, pb, w.next, w.step, w.advance)
	}
}

// wanted tells a tile which memory will be wanted soon: for every four steps in k it fetches two lines
// at next and two at next+step to the second-level cache, and moves next by advance, all counted in
// values. It never reads what it fetches, so that next may run past the end of a slice.
type wanted struct {
	next          *float32
	step, advance int
}

// fetchRows is the number of rows that a tile with k steps passes where next moves by a row.
func fetchRows(k int) int { return max(k/4, 1) }

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

func blockAVX512(m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int) {
	if m <= 3 {
		block(avx512x16, avx512x64, 4, tileRowsAVX512, m, n, k, a, lda, b, c, ldc, d, ldd)
	} else {
		block(avx512x16, avx512x32, 2, tileRowsAVX512, m, n, k, a, lda, b, c, ldc, d, ldd)
	}
}

// block runs tiles of kind wide, which take the given number of panels, and of kind one for the
// panels that are left. A tile of the rows from i on finds its part of A at i*lda. While the tiles of
// a strip run, the panels that follow in b are fetched to the second-level cache.
func block(one, wide tileKind, panels, most, m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int) {
	rows := cutRows(m, most)
	j := 0
	for strip := panels * panelWidth; j+strip <= n; j += strip {
		after := (j + strip) * k
		for t, i := 0, 0; i < m; t++ {
			r := rows.at(t)
			w := wanted{next: &c[i*ldc+j]}
			// One tile alone is bound by reading its own panels.
			if at := after + t*(strip*k/rows.tiles); rows.tiles > 1 && at < len(b) {
				w = wanted{&b[at], 2 * strip / rows.tiles, 4 * strip / rows.tiles}
			}
			runTile(wide, r, k, &a[i*lda], lda, &b[j*k], 0, &c[i*ldc+j], ldc, element(d, i*ldd+j), ldd, nil, nil, w)
			i += r
		}
	}
	for ; j+panelWidth <= n; j += panelWidth {
		for t, i := 0, 0; i < m; t++ {
			r := rows.at(t)
			to := &c[i*ldc+j]
			runTile(one, r, k, &a[i*lda], lda, &b[j*k], 0, to, ldc, element(d, i*ldd+j), ldd, nil, nil, wanted{next: to})
			i += r
		}
	}
	if j == n {
		return
	}
	// The last panel is narrower than the tile.
	var edge [tileRowsAVX512 * panelWidth]float32
	for t, i := 0, 0; i < m; t++ {
		runTile(one, rows.at(t), k, &a[i*lda], lda, &b[j*k], 0, &edge[0], panelWidth, nil, 0, nil, nil, wanted{next: &edge[0]})
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

func directAVX2(s *scratch, x *operands, m, n, k int, c []float32, ldc int, d []float32, ldd int) {
	widthAVX2.direct(s, x, blockAVX2, m, n, k, c, ldc, d, ldd)
}

func directAVX512(s *scratch, x *operands, m, n, k int, c []float32, ldc int, d []float32, ldd int) {
	widthAVX512.direct(s, x, blockAVX512, m, n, k, c, ldc, d, ldd)
}

// direct takes one strip of B after the other and lays it out as panels, in memory that stays in the
// first-level cache while the rows of A pass by. Where B is not transposed the first tile does that in
// passing; likewise, the tiles of the first strip pack their columns of A. Few rows, and the columns
// behind the last strip, are packed beforehand, and multiplied by packed where A is rows.
func (v *width) direct(s *scratch, x *operands, packed func(m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int), m, n, k int, c []float32, ldc int, d []float32, ldd int) {
	strip := v.panels * panelWidth
	s.b = grow(s.b, k*max(strip, 4*panelWidth))
	if x.tA {
		s.a = grow(s.a, m*k+packSlack)
	}
	j := 0
	if m < v.least || n < strip {
		if x.tA {
			packTiles(s.a, v.most, m, k, x.a, x.lda)
		}
	} else {
		v.strips(s, x, m, n-n%strip, k, c, ldc, d, ldd)
		j = n - n%strip
	}
	for strip := 4 * panelWidth; j < n; j += strip {
		w := min(strip, n-j)
		packAVX2(s.b, x.tB, k, w, x.columns(j), x.ldb)
		b, from := s.b[:k*panels(w)*panelWidth], d
		if d != nil {
			from = d[j:]
		}
		if x.tA {
			block(v.oneT, v.wideT, v.panels, v.most, m, w, k, s.a, k, b, c[j:], ldc, from, ldd)
		} else {
			packed(m, w, k, x.a, x.lda, b, c[j:], ldc, from, ldd)
		}
	}
}

// strips is direct for whole strips.
func (v *width) strips(s *scratch, x *operands, m, n, k int, c []float32, ldc int, d []float32, ldd int) {
	strip := v.panels * panelWidth
	rows := cutRows(m, v.most)
	ahead := x.ahead(m, n, k, strip)
	for j := 0; j < n; j += strip {
		b := x.columns(j)
		if x.tB {
			packAVX2(s.b, true, k, strip, b, x.ldb)
		}
		ahead.begin(j)
		for t, i := 0, 0; i < m; t++ {
			r := rows.at(t)
			first := t == 0 && !x.tB
			kind := v.wide
			var a, pa *float32
			switch {
			case !x.tA:
				a = &x.a[i*x.lda]
				if first {
					kind = v.wideF
				}
			case j == 0:
				a, pa = &x.a[i], &s.a[i*k]
				kind = v.wideS
				if first {
					kind = v.wideSF
				}
			default:
				a = &s.a[i*k]
				kind = v.wideT
				if first {
					kind = v.wideTF
				}
			}
			w := ahead.piece(t, rows.tiles)
			to := &c[i*ldc+j]
			if w.next == nil {
				w.next = to
			}
			if first {
				runTile(kind, r, k, a, x.lda, &b[0], x.ldb, to, ldc, element(d, i*ldd+j), ldd, pa, &s.b[0], w)
			} else {
				runTile(kind, r, k, a, x.lda, &s.b[0], 0, to, ldc, element(d, i*ldd+j), ldd, pa, nil, w)
			}
			i += r
		}
	}
}

// ahead chooses the memory that the tiles of a strip fetch: the next strip of B, and a share of the A
// that the next block of k will read. A tile fetches a piece: two lines, 128 bytes, of each of some
// rows. That is few enough at a time for the lines under way that the processor can hold, which the
// tile needs too: with one line for every step in k, a sixth was lost.
type ahead struct {
	x          *operands
	strip, n   int
	rows       int       // of a piece
	tallB      int       // pieces to a column of B
	tallA, ofA int       // pieces to a column of A, and to all
	b          []float32 // the next strip of B, or nil
	fromA      int       // the first piece of A for this strip
	nA, nB     int       // how many pieces of each there are for this strip
}

const twoLines = 32

func (x *operands) ahead(m, n, k, strip int) ahead {
	h := ahead{x: x, strip: strip, n: n, rows: fetchRows(k)}
	h.tallB = (k + h.rows - 1) / h.rows
	if x.nextA != nil {
		rows, cols := m, k
		if x.tA {
			rows, cols = k, m
		}
		h.tallA = (rows + h.rows - 1) / h.rows
		h.ofA = h.tallA * ((cols + twoLines - 1) / twoLines)
	}
	return h
}

// begin turns to the strip from column j on.
func (h *ahead) begin(j int) {
	h.fromA = j * h.ofA / h.n
	h.nA = (j+h.strip)*h.ofA/h.n - h.fromA
	h.b, h.nB = nil, 0
	switch {
	case h.x.tB: // its rows are long, and the processor sees them coming
	case j+h.strip < h.n:
		h.b = h.x.b[j+h.strip:]
	default:
		h.b = h.x.nextB
	}
	if h.b != nil {
		h.nB = h.tallB
	}
}

// piece returns what tile t of n fetches.
func (h *ahead) piece(t, n int) wanted {
	i, end := t*(h.nA+h.nB)/n, (t+1)*(h.nA+h.nB)/n
	if i == end {
		return wanted{}
	}
	x, ld, at := h.b, h.x.ldb, i*h.rows*h.x.ldb
	if i >= h.nB {
		i += h.fromA - h.nB
		x, ld = h.x.nextA, h.x.lda
		at = i/h.tallA*twoLines + i%h.tallA*h.rows*ld
	}
	if at >= len(x) {
		return wanted{}
	}
	return wanted{&x[at], 0, ld}
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
type cut struct{ rows, longer, tiles int }

func cutRows(m, most int) cut {
	tiles := (m + most - 1) / most
	return cut{m / tiles, m % tiles, tiles}
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
