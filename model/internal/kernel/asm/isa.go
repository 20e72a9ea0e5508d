package main

import (
	"fmt"
	"log"
	"math"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/gotypes"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

var asm = build.NewContext()

// isa is a vector width and the few things that two instruction sets spell differently.
type isa struct {
	name  string
	lanes int
}

var (
	avx2   = isa{"AVX2", 8}
	avx512 = isa{"AVX512", 16}
)

func (v isa) bytes() int { return 4 * v.lanes }

func (v isa) text(name, signature, doc string) {
	asm.Function(name + v.name)
	asm.Attributes(attr.NOSPLIT)
	asm.SignatureExpr(signature)
	asm.Pragma("noescape")
	asm.Doc(strings.Split(doc, "\n")...)
}

func (v isa) reg() VecVirtual {
	if v.lanes == 16 {
		return asm.ZMM()
	}
	return asm.YMM()
}

func (v isa) zero() VecVirtual {
	r := v.reg()
	v.xor(r, r, r)
	return r
}

func (v isa) and(a Op, b, dst VecVirtual) {
	if v.lanes == 16 {
		asm.VPANDD(a, b, dst)
	} else {
		asm.VPAND(a, b, dst)
	}
}

func (v isa) or(a Op, b, dst VecVirtual) {
	if v.lanes == 16 {
		asm.VPORD(a, b, dst)
	} else {
		asm.VPOR(a, b, dst)
	}
}

func (v isa) xor(a Op, b, dst VecVirtual) {
	if v.lanes == 16 {
		asm.VPXORD(a, b, dst)
	} else {
		asm.VPXOR(a, b, dst)
	}
}

// param broadcasts a float32 parameter of the function. (Loading and storing it by avo's own means
// would use SSE's MOVSS, which stalls where the upper halves of vectors are in use.)
func (v isa) param(name string) VecVirtual {
	r := v.reg()
	asm.VBROADCASTSS(address(asm.Param(name)), r)
	return r
}

func address(c gotypes.Component) Mem {
	b, err := c.Resolve()
	if err != nil {
		log.Fatal(err)
	}
	return b.Addr
}

// data lays 16 values in read-only memory.
func data(name string, value func(i int) uint32) Mem {
	m := asm.StaticGlobal(name)
	asm.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		asm.AddDatum(4*i, U32(value(i)))
	}
	return m
}

var constants = map[uint32]Mem{}

// splat is 32 bits in all 16 lanes of 64 bytes of memory, fit as an operand of either width.
func splat(bits uint32) Mem {
	m, ok := constants[bits]
	if !ok {
		m = data(fmt.Sprintf("x%08x", bits), func(int) uint32 { return bits })
		constants[bits] = m
	}
	return m
}

// float is splat of a number. (As an F32 of avo a whole number would be written as an integer.)
func float(x float32) Mem { return splat(math.Float32bits(x)) }

// load copies a constant to a register.
func (v isa) load(m Op) VecVirtual {
	r := v.reg()
	asm.VMOVUPS(m, r)
	return r
}

var tailTable Mem

// mask selects the first n%lanes lanes: a vector of sign bits (AVX2) or an opmask (AVX-512).
type mask struct {
	v   isa
	vec VecVirtual
	k   OpmaskVirtual
}

// tail makes the mask for the rest of n elements that is in register rest, 0 < rest < lanes.
func (v isa) tail(rest Register) mask {
	if v.lanes == 16 {
		bits := asm.GP64()
		shift := asm.GP64()
		asm.MOVQ(rest, shift)
		asm.MOVQ(U64(1), bits)
		asm.SHLXQ(shift, bits, bits)
		asm.DECQ(bits)
		k := asm.K()
		asm.KMOVW(bits.As32(), k)
		return mask{v: v, k: k}
	}
	if tailTable.Base == nil {
		tailTable = data("tail", func(i int) uint32 {
			if i < 8 {
				return 0xffffffff
			}
			return 0
		})
	}
	p, back := asm.GP64(), asm.GP64()
	asm.LEAQ(tailTable, p)
	asm.MOVQ(rest, back)
	asm.NEGQ(back)
	vec := asm.YMM()
	asm.VMOVUPS(Mem{Base: p, Index: back, Scale: 4, Disp: 32}, vec)
	return mask{v: v, vec: vec}
}

// access reads and writes vectors at a displacement, whole or (with a mask) their first lanes.
type access struct {
	v    isa
	disp int
	m    *mask
}

// get loads a vector; lanes outside the mask are 0.
func (a access) get(m Mem) VecVirtual {
	r := a.v.reg()
	m = m.Offset(a.disp)
	switch {
	case a.m == nil:
		asm.VMOVUPS(m, r)
	case a.v.lanes == 16:
		asm.VMOVUPS_Z(m, a.m.k, r)
	default:
		asm.VMASKMOVPS(m, a.m.vec, r)
	}
	return r
}

// getFilled loads a vector; lanes outside the mask are fill's.
func (a access) getFilled(m Mem, fill VecVirtual) VecVirtual {
	r := a.v.reg()
	m = m.Offset(a.disp)
	switch {
	case a.m == nil:
		asm.VMOVUPS(m, r)
	case a.v.lanes == 16:
		asm.VMOVAPS(fill, r)
		asm.VMOVUPS(m, a.m.k, r)
	default:
		asm.VMASKMOVPS(m, a.m.vec, r)
		asm.VBLENDVPS(a.m.vec, r, fill, r)
	}
	return r
}

func (a access) put(r VecVirtual, m Mem) {
	m = m.Offset(a.disp)
	switch {
	case a.m == nil:
		asm.VMOVUPS(r, m)
	case a.v.lanes == 16:
		asm.VMOVUPS(r, a.m.k, m)
	default:
		asm.VMASKMOVPS(r, a.m.vec, m)
	}
}

// zeroOutside clears the lanes of r outside the mask.
func (a access) zeroOutside(r VecVirtual) {
	switch {
	case a.m == nil:
	case a.v.lanes == 16:
		asm.VMOVAPS_Z(r, a.m.k, r)
	default:
		asm.VANDPS(a.m.vec, r, r)
	}
}

// Predicates of VCMPPS.
const (
	equal        = 0
	less         = 1
	notLessEqual = 6 // true of NaN
)

// replace sets the lanes of dst to value's where a and b compare true.
func (v isa) replace(dst, value VecVirtual, predicate uint64, a, b VecVirtual) {
	if v.lanes == 16 {
		k := asm.K()
		asm.VCMPPS(Imm(predicate), b, a, k)
		asm.VMOVAPS(value, k, dst)
		return
	}
	t := asm.YMM()
	asm.VCMPPS(Imm(predicate), b, a, t)
	asm.VBLENDVPS(t, value, dst, dst)
}

var labels int

func label(name string) string {
	labels++
	return fmt.Sprintf("%s%d", name, labels)
}

// each emits body for the whole vectors of n elements, in a loop with the element's index in i, and
// then once more under a mask for the rest.
func (v isa) each(n Register, body func(a access, i Register)) {
	i, left := asm.GP64(), asm.GP64()
	asm.XORQ(i, i)
	asm.MOVQ(n, left)
	v.rest(i, left, body)
}

// pairs is each with two vectors at a time, their instructions interleaved: a processor looks too few
// instructions ahead to overlap two long chains by itself.
func (v isa) pairs(n Register, body func(a access, i Register)) {
	i, left := asm.GP64(), asm.GP64()
	asm.XORQ(i, i)
	asm.MOVQ(n, left)
	loop, single := label("pair"), label("single")
	asm.SUBQ(Imm(uint64(2*v.lanes)), left)
	asm.JLT(LabelRef(single))
	asm.Label(loop)
	asm.Comment(firstOfPair)
	body(access{v: v}, i)
	asm.Comment(secondOfPair)
	body(access{v: v, disp: v.bytes()}, i)
	asm.Comment(endOfPair)
	asm.ADDQ(Imm(uint64(2*v.lanes)), i)
	asm.SUBQ(Imm(uint64(2*v.lanes)), left)
	asm.JGE(LabelRef(loop))
	asm.Label(single)
	asm.ADDQ(Imm(uint64(2*v.lanes)), left)
	v.rest(i, left, body)
}

func (v isa) rest(i, left Register, body func(a access, i Register)) {
	loop, rest, done := label("loop"), label("rest"), label("done")
	asm.SUBQ(Imm(uint64(v.lanes)), left)
	asm.JLT(LabelRef(rest))
	asm.Label(loop)
	body(access{v: v}, i)
	asm.ADDQ(Imm(uint64(v.lanes)), i)
	asm.SUBQ(Imm(uint64(v.lanes)), left)
	asm.JGE(LabelRef(loop))
	asm.Label(rest)
	asm.ADDQ(Imm(uint64(v.lanes)), left)
	asm.JLE(LabelRef(done))
	m := v.tail(left)
	body(access{v: v, m: &m}, i)
	asm.Label(done)
}

// Marks around the two halves of a pair.
const (
	firstOfPair  = "first of a pair"
	secondOfPair = "second of a pair"
	endOfPair    = "end of a pair"
)

// interleave merges the halves of pairs, which are straight lines of instructions on registers of
// their own, but for sums that either may add to first.
func interleave(f *ir.Function) {
	var nodes, first, second []ir.Node
	into := &nodes
	for _, n := range f.Nodes {
		c, ok := n.(*ir.Comment)
		switch {
		case ok && c.Lines[0] == firstOfPair:
			into = &first
		case ok && c.Lines[0] == secondOfPair:
			into = &second
		case ok && c.Lines[0] == endOfPair:
			into = &nodes
			for i := range first {
				nodes = append(nodes, first[i], second[i])
			}
			first, second = nil, nil
		default:
			*into = append(*into, n)
		}
	}
	f.Nodes = nodes
}

func at(base, index Register) Mem { return Mem{Base: base, Index: index, Scale: 4} }

// slice loads the base pointer of a slice parameter.
func slice(name string) Register { return asm.Load(asm.Param(name).Base(), asm.GP64()) }

func length(name string) Register { return asm.Load(asm.Param(name).Len(), asm.GP64()) }

// sum leaves the sum of r's lanes in all lanes of the lowest 128 bits.
func (v isa) sum(r VecVirtual) VecVirtual {
	return v.fold(r, func(a, b, dst Op) { asm.VADDPS(a, b, dst) })
}

// max leaves the largest of r's lanes in all lanes of the lowest 128 bits.
func (v isa) max(r VecVirtual) VecVirtual {
	return v.fold(r, func(a, b, dst Op) { asm.VMAXPS(a, b, dst) })
}

func (v isa) fold(r VecVirtual, op func(a, b, dst Op)) VecVirtual {
	y := r.AsY()
	if v.lanes == 16 {
		hi := asm.YMM()
		asm.VEXTRACTF64X4(Imm(1), r, hi)
		sum := asm.YMM()
		op(hi, y, sum)
		y = sum
	}
	hi, x, t := asm.XMM(), asm.XMM(), asm.XMM()
	asm.VEXTRACTF128(Imm(1), y, hi)
	op(hi, y.(Vec).AsX(), x)
	asm.VPERMILPS(Imm(0x4e), x, t)
	op(t, x, x)
	asm.VPERMILPS(Imm(0xb1), x, t)
	op(t, x, x)
	return x
}

// broadcast copies the lowest lane of x to all lanes.
func (v isa) broadcast(x VecVirtual) VecVirtual {
	r := v.reg()
	asm.VBROADCASTSS(x.AsX(), r)
	return r
}

func ret() {
	asm.VZEROUPPER()
	asm.RET()
}
