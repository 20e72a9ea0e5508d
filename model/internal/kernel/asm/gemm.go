package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const panel = 16

// peak emits a loop of nothing but independent fused multiply-adds on registers.
func peak(v isa) {
	const chains = 12
	v.text("peak", "func(n int)", fmt.Sprintf("peak%s does n times %d fused multiply-adds on each of %d lanes.", v.name, chains, v.lanes))
	n := asm.Load(asm.Param("n"), asm.GP64())
	x := v.zero()
	var acc [chains]VecVirtual
	for i := range acc {
		acc[i] = v.zero()
	}
	asm.Label("loop")
	for i := range acc {
		asm.VFMADD231PS(x, x, acc[i])
	}
	asm.DECQ(n)
	asm.JNZ(LabelRef("loop"))
	ret()
}

// A form says where the operands of a tile lie.
type form struct {
	columns bool // A is the columns that packTile has laid one after another, and not rows
	placeA  bool // A is columns in the place where they lie, lda apart
	placeB  bool // B lies in its place, ldb apart, and not in panels
}

func (f form) name() string {
	s := ""
	switch {
	case f.placeA:
		s = "S"
	case f.columns:
		s = "T"
	}
	if f.placeB {
		s += "F"
	}
	return s
}

// tiles emits the product of a few rows of A and a few panels of B, with the tile of C in registers,
// for each number of rows in [least, most]. Operands that lie in their place, but for rows of A, are
// packed in passing, which costs no time but that of reading them from there.
func tiles(v isa, panels, least, most int, f form) {
	name, aAt, bAt := fmt.Sprintf("tile%d", panels*panel)+f.name(), "i*lda+l", "j/16*k*16+l*16+j%16"
	also := ""
	switch {
	case f.placeA:
		aAt, also = "l*lda+i", "\n\t\tpa[l*rows+i] = a[l*lda+i]"
	case f.columns:
		aAt = "l*rows+i"
	}
	if f.placeB {
		also += "\n\t\tpb[" + bAt + "] = b[l*ldb+j]"
		bAt = "l*ldb+j"
	}
	if also != "" {
		also = fmt.Sprintf("\n\nOn the way it packs,\n\n\tfor l, i, j := range k, rows, %d {%s\n\t}", panels*panel, also)
	}
	if f.placeA {
		also += fmt.Sprintf("\n\nand leaves garbage in the %d values of pa that follow.", panel)
	}
	v.text(name, "func(rows, k int, a *float32, lda int, b *float32, ldb int, c *float32, ldc int, d *float32, ldd int, pa, pb, next *float32, step, advance int)", fmt.Sprintf(
		"%s%s is, for %d <= rows <= %d,\n\n\tfor i, j := range rows, %d {\n\t\tc[i*ldc+j] = d[i*ldd+j] + sum over l<k of a[%s] * b[%s]\n\t}\n\nwith the sum taken in the order of l, each step one fused multiply-add, and without d where that is nil.%s",
		name, v.name, least, most, panels*panel, aAt, bAt, also))
	rows := asm.Load(asm.Param("rows"), asm.GP64())
	for r := most; r > least; r-- {
		asm.CMPQ(rows, Imm(uint64(r)))
		asm.JEQ(LabelRef(fmt.Sprintf("rows%d", r)))
	}
	for r := least; r <= most; r++ {
		asm.Label(fmt.Sprintf("rows%d", r))
		tile(v, r, panels, f)
	}
}

const unroll = 4

func tile(v isa, rows, panels int, f form) {
	k := asm.Load(asm.Param("k"), asm.GP64())
	// Where there is time for it, the tile of C comes while the sums are taken: where it lay in memory,
	// products with k = 512 became 3 % faster; short ones with C in the cache would be slower.
	begin := label("begin")
	asm.CMPQ(k, Imm(192))
	asm.JLT(LabelRef(begin))
	own := pointers(asm.Load(asm.Param("c"), asm.GP64()), stride("ldc"), rows)
	for r := range rows {
		for l := range panels {
			asm.PREFETCHT0(own.at(r).Offset(64 * l))
		}
	}
	asm.Label(begin)
	a := lines{base: []Register{asm.Load(asm.Param("a"), asm.GP64())}}
	var pa Register
	var all mask // of the rows
	switch {
	case f.placeA:
		a = pointers(a.base[0], stride("lda"), unroll)
		pa = asm.Load(asm.Param("pa"), asm.GP64())
		n := asm.GP64()
		asm.MOVQ(U64(uint64(rows)), n)
		all = v.tail(n)
	case !f.columns:
		a = pointers(a.base[0], stride("lda"), rows)
	}
	panelBytes := asm.GP64()
	asm.MOVQ(k, panelBytes)
	asm.SHLQ(Imm(6), panelBytes)
	b := lines{base: []Register{asm.Load(asm.Param("b"), asm.GP64())}}
	var pb lines
	if f.placeB {
		b = pointers(b.base[0], stride("ldb"), unroll)
		pb = pointers(asm.Load(asm.Param("pb"), asm.GP64()), panelBytes, panels)
	} else {
		b = pointers(b.base[0], panelBytes, panels)
	}
	// What is wanted next comes from slower memory meanwhile.
	next := asm.Load(asm.Param("next"), asm.GP64())
	further, onward := stride("step"), stride("advance")

	per := panel / v.lanes // vectors of a panel's row
	acc := make([][]VecVirtual, rows)
	for r := range acc {
		acc[r] = make([]VecVirtual, panels*per)
		for j := range acc[r] {
			acc[r][j] = v.zero()
		}
	}
	// The fewer of the vectors of B and the values of A are kept in registers for a step.
	step := func(u int) {
		left := func(r int) VecVirtual {
			x := v.reg()
			switch {
			case f.placeA:
				asm.VBROADCASTSS(a.at(u).Offset(4*r), x)
			case f.columns:
				asm.VBROADCASTSS(a.at(0).Offset(4*(u*rows+r)), x)
			default:
				asm.VBROADCASTSS(a.at(r).Offset(4*u), x)
			}
			return x
		}
		right := func(j int) VecVirtual {
			if f.placeB {
				y := v.load(b.at(u).Offset(j * v.bytes()))
				asm.VMOVUPS(y, pb.at(j/per).Offset(4*(u*panel+j%per*v.lanes)))
				return y
			}
			return v.load(b.at(j / per).Offset(4 * (u*panel + j%per*v.lanes)))
		}
		if f.placeA {
			asm.VMOVUPS(access{v: v, m: &all}.get(a.at(u)), Mem{Base: pa, Disp: 4 * u * rows})
		}
		line := Mem{Base: next, Disp: 64 * (u % 2)}
		if u >= 2 {
			line.Index, line.Scale = further, 1
		}
		asm.PREFETCHT1(line)
		if rows < panels*per {
			var x []VecVirtual
			for r := range acc {
				x = append(x, left(r))
			}
			for j := range acc[0] {
				y := right(j)
				for r := range acc {
					asm.VFMADD231PS(y, x[r], acc[r][j])
				}
			}
			return
		}
		var y []VecVirtual
		for j := range acc[0] {
			y = append(y, right(j))
		}
		for r := range acc {
			x := left(r)
			for j := range y {
				asm.VFMADD231PS(y[j], x, acc[r][j])
			}
		}
	}
	advance := func(n int) {
		switch {
		case f.placeA:
			a.skip(n)
			asm.ADDQ(U32(uint32(4*n*rows)), pa)
		case f.columns:
			a.advance(4 * n * rows)
		default:
			a.advance(4 * n)
		}
		if f.placeB {
			b.skip(n)
			pb.advance(4 * n * panel)
		} else {
			b.advance(4 * n * panel)
		}
		if n == unroll {
			asm.ADDQ(onward, next)
		}
	}
	loop, single, one, store, set := label("loop"), label("single"), label("one"), label("store"), label("set")
	asm.SUBQ(Imm(unroll), k)
	asm.JLT(LabelRef(single))
	asm.Label(loop)
	for u := 0; u < unroll; u++ {
		step(u)
	}
	advance(unroll)
	asm.SUBQ(Imm(unroll), k)
	asm.JGE(LabelRef(loop))
	asm.Label(single)
	asm.ADDQ(Imm(unroll), k)
	asm.JZ(LabelRef(store))
	asm.Label(one)
	step(0)
	advance(1)
	asm.DECQ(k)
	asm.JNZ(LabelRef(one))

	asm.Label(store)
	from := asm.Load(asm.Param("d"), asm.GP64())
	asm.TESTQ(from, from)
	asm.JZ(LabelRef(set))
	d := pointers(from, stride("ldd"), rows)
	for r := range acc {
		for j := range acc[r] {
			asm.VADDPS(d.at(r).Offset(j*v.bytes()), acc[r][j], acc[r][j])
		}
	}
	asm.Label(set)
	c := pointers(asm.Load(asm.Param("c"), asm.GP64()), stride("ldc"), rows)
	for r := range acc {
		for j := range acc[r] {
			asm.VMOVUPS(acc[r][j], c.at(r).Offset(j*v.bytes()))
		}
	}
	ret()
}

// stride loads a parameter that counts float32 values and makes bytes of it.
func stride(name string) Register {
	r := asm.Load(asm.Param(name), asm.GP64())
	asm.SHLQ(Imm(2), r)
	return r
}

// lines addresses a number of lines at a common stride, three to a pointer.
type lines struct {
	base   []Register
	stride Register
}

func pointers(p, stride Register, n int) lines {
	l := lines{base: []Register{p}, stride: stride}
	for i := 3; i < n; i += 3 {
		next := asm.GP64()
		asm.LEAQ(Mem{Base: l.base[len(l.base)-1], Index: stride, Scale: 2}, next)
		asm.ADDQ(stride, next)
		l.base = append(l.base, next)
	}
	return l
}

func (l lines) at(i int) Mem {
	m := Mem{Base: l.base[i/3]}
	if i%3 > 0 {
		m.Index, m.Scale = l.stride, uint8(i%3)
	}
	return m
}

func (l lines) advance(bytes int) {
	for _, p := range l.base {
		asm.ADDQ(U32(uint32(bytes)), p)
	}
}

// skip advances by n lines, 1 or unroll.
func (l lines) skip(n int) {
	for _, p := range l.base {
		if n == 1 {
			asm.ADDQ(l.stride, p)
		} else {
			asm.LEAQ(Mem{Base: p, Index: l.stride, Scale: uint8(n)}, p)
		}
	}
}

// copyPanels emits the packing of whole panels of B as it lies, some of them side by side, because
// short reads from many distant lines run at half the speed.
func copyPanels(panels int) {
	name := fmt.Sprintf("copy%d", panels*panel)
	avx2.text(name, "func(k int, dst *float32, ldp int, b *float32, ldb int)", fmt.Sprintf(
		"%sAVX2 is\n\n\tfor l, j := range k, %d {\n\t\tdst[j/16*ldp+l*16+j%%16] = b[l*ldb+j]\n\t}", name, panels*panel))
	k := asm.Load(asm.Param("k"), asm.GP64())
	dst := pointers(asm.Load(asm.Param("dst"), asm.GP64()), stride("ldp"), panels)
	b := asm.Load(asm.Param("b"), asm.GP64())
	ldb := stride("ldb")
	asm.TESTQ(k, k)
	asm.JZ(LabelRef("done"))
	asm.Label("loop")
	for p := 0; p < panels; p++ {
		for h := 0; h < panel; h += avx2.lanes {
			asm.VMOVUPS(avx2.load(Mem{Base: b, Disp: 4 * (p*panel + h)}), dst.at(p).Offset(4*h))
		}
	}
	asm.ADDQ(ldb, b)
	dst.advance(4 * panel)
	asm.DECQ(k)
	asm.JNZ(LabelRef("loop"))
	asm.Label("done")
	ret()
}

// packTile emits the packing of a few columns of the transpose of A for the T kind of tile.
func packTile(most int) {
	name := fmt.Sprintf("packTile%d", most)
	avx2.text(name, "func(k, rows int, dst, a *float32, lda int)", fmt.Sprintf(
		"%sAVX2 is, for %d < rows <= %d,\n\n\tfor l, i := range k, rows {\n\t\tdst[l*rows+i] = a[l*lda+i]\n\t}\n\nIt leaves garbage in the %d-rows values that follow.", name, most-8, most, most))
	k, rows := asm.Load(asm.Param("k"), asm.GP64()), asm.Load(asm.Param("rows"), asm.GP64())
	dst, a := asm.Load(asm.Param("dst"), asm.GP64()), asm.Load(asm.Param("a"), asm.GP64())
	lda := stride("lda")
	// The last vector is masked, for what lies beyond it may not be memory of ours.
	last := asm.GP64()
	asm.LEAQ(Mem{Base: rows, Disp: 8 - most}, last)
	m := avx2.tail(last)
	asm.TESTQ(k, k)
	asm.JZ(LabelRef("done"))
	asm.Label("loop")
	for i := 0; i < most; i += avx2.lanes {
		from := access{v: avx2}
		if i+avx2.lanes == most {
			from.m = &m
		}
		asm.VMOVUPS(from.get(Mem{Base: a, Disp: 4 * i}), Mem{Base: dst, Disp: 4 * i})
	}
	asm.ADDQ(lda, a)
	asm.LEAQ(Mem{Base: dst, Index: rows, Scale: 4}, dst)
	asm.DECQ(k)
	asm.JNZ(LabelRef("loop"))
	asm.Label("done")
	ret()
}

// transpose16 emits the packing of one whole panel of the transpose of B, up to a multiple of 8 rows.
func transpose16() {
	avx2.text("transpose16", "func(n int, dst, b *float32, ldb int)",
		"transpose16AVX2 is\n\n\tfor l, j := range 8*n, 16 {\n\t\tdst[l*16+j] = b[j*ldb+l]\n\t}")
	n := asm.Load(asm.Param("n"), asm.GP64())
	dst := asm.Load(asm.Param("dst"), asm.GP64())
	b := asm.Load(asm.Param("b"), asm.GP64())
	ldb := stride("ldb")
	lower := asm.GP64()
	asm.MOVQ(ldb, lower)
	asm.SHLQ(Imm(3), lower)
	asm.ADDQ(b, lower)
	asm.TESTQ(n, n)
	asm.JZ(LabelRef("done"))
	asm.Label("loop")
	transpose8(dst, 0, b, ldb)
	transpose8(dst, 32, lower, ldb)
	asm.ADDQ(Imm(32), b)
	asm.ADDQ(Imm(32), lower)
	asm.ADDQ(U32(8*4*panel), dst)
	asm.DECQ(n)
	asm.JNZ(LabelRef("loop"))
	asm.Label("done")
	ret()
}

// transpose8 emits the transposition of the 8×8 block at src into lines of 64 bytes.
func transpose8(dst Register, disp int, src, lds Register) {
	var in [8]VecVirtual
	// Row j in the low half, row j+4 in the high half, of the left and then of the right four columns.
	low, high := asm.GP64(), asm.GP64()
	asm.MOVQ(src, low)
	asm.LEAQ(Mem{Base: src, Index: lds, Scale: 4}, high)
	for j := 0; j < 4; j++ {
		for h := 0; h < 2; h++ {
			x, y := asm.XMM(), asm.YMM()
			asm.VMOVUPS(Mem{Base: low, Disp: 16 * h}, x)
			asm.VINSERTF128(Imm(1), Mem{Base: high, Disp: 16 * h}, x.AsY(), y)
			in[4*h+j] = y
		}
		if j < 3 {
			asm.ADDQ(lds, low)
			asm.ADDQ(lds, high)
		}
	}
	for h := 0; h < 2; h++ {
		q := in[4*h : 4*h+4]
		t := [4]VecVirtual{asm.YMM(), asm.YMM(), asm.YMM(), asm.YMM()}
		asm.VUNPCKLPS(q[1], q[0], t[0])
		asm.VUNPCKHPS(q[1], q[0], t[1])
		asm.VUNPCKLPS(q[3], q[2], t[2])
		asm.VUNPCKHPS(q[3], q[2], t[3])
		for i := 0; i < 4; i++ {
			y := asm.YMM()
			if i%2 == 0 {
				asm.VUNPCKLPD(t[2+i/2], t[i/2], y)
			} else {
				asm.VUNPCKHPD(t[2+i/2], t[i/2], y)
			}
			asm.VMOVUPS(y, Mem{Base: dst, Disp: disp + 64*(4*h+i)})
		}
	}
}

// columns reads the parameters that gather and scatter share and emits the loop over rows, and inside
// it over the s selected rows of w, whose address is handed to visit.
func columns(matrix, vector string, open func(line Register) []VecVirtual, visit func(sel Register, acc []VecVirtual), end func(line Register, acc []VecVirtual)) {
	line := asm.Load(asm.Param(vector), asm.GP64())
	ld := stride("ld")
	idx := asm.Load(asm.Param("idx"), asm.GP64())
	rows := asm.Load(asm.Param("rows"), asm.GP64())
	s := asm.Load(asm.Param("s"), asm.GP64())
	w := asm.Load(asm.Param(matrix), asm.GP64())
	n := stride("n")
	classes := asm.Load(asm.Param("classes"), asm.GP64())
	asm.IMULQ(n, classes) // bytes from one group of classes to the next
	asm.TESTQ(rows, rows)
	asm.JZ(LabelRef("done"))
	asm.Label("row")
	acc := open(line)
	group, left := asm.GP64(), asm.GP64()
	asm.MOVQ(w, group)
	asm.MOVQ(s, left)
	asm.TESTQ(left, left)
	asm.JZ(LabelRef("end"))
	asm.Label("select")
	sel := asm.GP64()
	asm.MOVLQSX(Mem{Base: idx}, sel)
	asm.IMULQ(n, sel)
	asm.ADDQ(group, sel)
	visit(sel, acc)
	asm.ADDQ(Imm(4), idx)
	asm.ADDQ(classes, group)
	asm.DECQ(left)
	asm.JNZ(LabelRef("select"))
	asm.Label("end")
	end(line, acc)
	asm.ADDQ(ld, line)
	asm.DECQ(rows)
	asm.JNZ(LabelRef("row"))
	asm.Label("done")
	ret()
}

func gather(v isa, width int) {
	name := fmt.Sprintf("gather%d", width)
	v.text(name, "func(dst *float32, ld int, idx *int32, rows, s int, w *float32, n, classes int)", fmt.Sprintf(
		"%s%s is\n\n\tfor r, j, i := range rows, s, %d {\n\t\tdst[r*ld+i] += w[(j*classes+idx[r*s+j])*n+i]\n\t}", name, v.name, width))
	columns("w", "dst", func(line Register) []VecVirtual {
		return loadAll(v, width, line)
	}, func(sel Register, acc []VecVirtual) {
		for i := range acc {
			asm.VADDPS(Mem{Base: sel, Disp: i * v.bytes()}, acc[i], acc[i])
		}
	}, func(line Register, acc []VecVirtual) {
		for i := range acc {
			asm.VMOVUPS(acc[i], Mem{Base: line, Disp: i * v.bytes()})
		}
	})
}

func scatter(v isa, width int) {
	name := fmt.Sprintf("scatter%d", width)
	v.text(name, "func(dw *float32, n, classes int, idx *int32, rows, s int, dy *float32, ld int)", fmt.Sprintf(
		"%s%s is\n\n\tfor r, j, i := range rows, s, %d {\n\t\tdw[(j*classes+idx[r*s+j])*n+i] += dy[r*ld+i]\n\t}", name, v.name, width))
	columns("dw", "dy", func(line Register) []VecVirtual {
		return loadAll(v, width, line)
	}, func(sel Register, acc []VecVirtual) {
		for i := range acc {
			t := v.reg()
			asm.VADDPS(Mem{Base: sel, Disp: i * v.bytes()}, acc[i], t)
			asm.VMOVUPS(t, Mem{Base: sel, Disp: i * v.bytes()})
		}
	}, func(Register, []VecVirtual) {})
}

func loadAll(v isa, width int, line Register) []VecVirtual {
	acc := make([]VecVirtual, width/v.lanes)
	for i := range acc {
		acc[i] = v.load(Mem{Base: line, Disp: i * v.bytes()})
	}
	return acc
}
