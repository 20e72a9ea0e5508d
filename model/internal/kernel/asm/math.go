package main

import (
	"math"

	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	minusInfinity = 0xff800000
	notANumber    = 0x7fc00000
)

// The constants are those of package kernel's math.go, which explains them.
var (
	log2e  = float(1.44269504088896341)
	ln2Hi  = float(0.693359375)
	ln2Lo  = float(-2.12194440e-4)
	expP   = polynomial(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
	logP   = polynomial(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)
	one    = float(1)
	half   = float(0.5)
	signs  = splat(0x80000000)
	others = splat(0x7fffffff)
)

func polynomial(c ...float32) []Mem {
	p := make([]Mem, len(c))
	for i := range c {
		p[i] = float(c[i])
	}
	return p
}

// horner emits the polynomial p, highest power first, of r.
func (v isa) horner(p []Mem, r VecVirtual) VecVirtual {
	y := v.load(p[0])
	for _, c := range p[1:] {
		asm.VFMADD213PS(c, r, y)
	}
	return y
}

// clamp limits x to [lo, hi]; NaN stays NaN, because MINPS and MAXPS return their second source then.
func (v isa) clamp(x VecVirtual, lo, hi float32) VecVirtual {
	t := v.load(float(hi))
	asm.VMINPS(x, t, t)
	u := v.load(float(lo))
	asm.VMAXPS(t, u, u)
	return u
}

// reduce splits x into k·ln2 + r with |r| <= ln2/2 and returns k as integers and q = exp(r)-1.
func (v isa) reduce(x VecVirtual) (k, q VecVirtual) {
	k = v.reg()
	asm.VMULPS(log2e, x, k)
	asm.VCVTPS2DQ(k, k)
	n, r := v.reg(), v.reg()
	asm.VCVTDQ2PS(k, n)
	asm.VMOVAPS(x, r)
	asm.VFNMADD231PS(ln2Hi, n, r)
	asm.VFNMADD231PS(ln2Lo, n, r)
	// Pairs of terms side by side: the chain of one vector's operations is what takes time.
	square := v.reg()
	asm.VMULPS(r, r, square)
	term := func(i int) VecVirtual {
		y := v.load(expP[i])
		asm.VFMADD213PS(expP[i+1], r, y)
		return y
	}
	q = term(0)
	asm.VFMADD213PS(term(2), square, q)
	asm.VFMADD213PS(term(4), square, q)
	asm.VFMADD213PS(r, square, q)
	return k, q
}

// power makes 2^(k+bias) of integers, -127 < k+bias <= 128; 2^128 is infinity.
func (v isa) power(k VecVirtual, bias int) VecVirtual {
	s := v.reg()
	asm.VPADDD(splat(uint32(int32(127+bias))), k, s)
	asm.VPSLLD(Imm(23), s, s)
	return s
}

func (v isa) exp(x VecVirtual) VecVirtual {
	k, y := v.reduce(v.clamp(x, -104, 89))
	asm.VADDPS(one, y, y)
	// 2^k in two factors, so that results down to the smallest subnormal and up to infinity come right.
	k1 := v.reg()
	asm.VPSRAD(Imm(1), k, k1)
	asm.VPSUBD(k1, k, k)
	asm.VMULPS(v.power(k1, 0), y, y)
	asm.VMULPS(v.power(k, 0), y, y)
	return y
}

// expm1 needs |x| <= 89 or NaN.
func (v isa) expm1(x VecVirtual) VecVirtual {
	k, q := v.reduce(x)
	s := v.power(k, -1) // 2^(k-1), since 2^128 is no number
	t := v.reg()
	asm.VSUBPS(half, s, t)
	asm.VFMADD213PS(t, s, q)
	asm.VADDPS(q, q, q)
	return q
}

func (v isa) negate(x VecVirtual) VecVirtual {
	r := v.reg()
	v.xor(signs, x, r)
	return r
}

func (v isa) sigmoid(x VecVirtual) VecVirtual {
	// exp(-x) needs no subnormals, and 2^128 is infinity as it should be.
	k, y := v.reduce(v.clamp(v.negate(x), -87, 89))
	asm.VADDPS(one, y, y)
	asm.VMULPS(v.power(k, 0), y, y)
	asm.VADDPS(one, y, y)
	r := v.load(one)
	asm.VDIVPS(y, r, r)
	return r
}

func (v isa) tanh(x VecVirtual) VecVirtual {
	t := v.reg()
	asm.VADDPS(x, x, t)
	y := v.expm1(v.clamp(t, -18.5, 18.5))
	asm.VADDPS(float(2), y, t)
	asm.VDIVPS(t, y, y)
	return y
}

// sqrtHalf is the least mantissa of a reduced logarithm, 1/sqrt(2), as bits.
const sqrtHalf = 0x3f3504f3

// logOf emits the logarithm of u + d, where u is positive, normal and finite and d (or nil) a rounding
// error of u.
func (v isa) logOf(u, d VecVirtual) VecVirtual {
	k, m, t := v.reg(), v.reg(), v.reg()
	asm.VPSUBD(splat(sqrtHalf), u, k)
	asm.VPSRAD(Imm(23), k, k)
	asm.VPSLLD(Imm(23), k, t)
	asm.VPSUBD(t, u, m)
	asm.VSUBPS(one, m, m)
	if d != nil {
		s := v.load(splat(126)) // d is 0 where k is larger
		asm.VPMINSD(k, s, s)
		scale := v.load(splat(127))
		asm.VPSUBD(s, scale, scale)
		asm.VPSLLD(Imm(23), scale, scale)
		asm.VFMADD231PS(scale, d, m)
	}
	n := v.reg()
	asm.VCVTDQ2PS(k, n)
	y := v.horner(logP, m)
	z := v.reg()
	asm.VMULPS(m, m, z)
	asm.VMULPS(z, m, t)
	asm.VMULPS(t, y, y)
	asm.VFMADD231PS(ln2Lo, n, y)
	asm.VFNMADD231PS(half, z, y)
	asm.VADDPS(m, y, y)
	asm.VFMADD231PS(ln2Hi, n, y)
	return y
}

func (v isa) log(x VecVirtual) VecVirtual {
	const least = 0x00800000 // bits of the least normal number
	// below is all ones where x is subnormal: there 2^32·x is used and 32·ln2 subtracted.
	below := v.reg()
	asm.VMOVAPS(x, below)
	asm.VPSUBD(splat(least), below, below)
	asm.VPSRAD(Imm(31), below, below)
	u, k := v.reg(), v.reg()
	v.and(splat(32<<23), below, u)
	asm.VPADDD(one, u, u)
	asm.VMULPS(x, u, u)
	y := v.logOf(u, nil)
	v.and(float(32*math.Ln2), below, k)
	asm.VSUBPS(k, y, y)
	zero := v.zero()
	v.replace(y, v.load(splat(minusInfinity)), equal, x, zero)
	v.replace(y, v.load(splat(notANumber)), less, x, zero)
	v.keepSpecial(y, x)
	return y
}

// log1p needs x >= 0 or NaN.
func (v isa) log1p(x VecVirtual) VecVirtual {
	u, d := v.reg(), v.reg()
	asm.VADDPS(one, x, u)
	asm.VSUBPS(one, u, d)
	asm.VSUBPS(d, x, d)
	y := v.logOf(u, d)
	v.keepSpecial(y, x)
	return y
}

// keepSpecial replaces y where x is positive infinity or NaN by x.
func (v isa) keepSpecial(y, x VecVirtual) {
	v.replace(y, x, notLessEqual, x, v.load(float(math.MaxFloat32)))
}

// sign splits x into its sign bit and its absolute value.
func (v isa) sign(x VecVirtual) (sign, abs VecVirtual) {
	sign, abs = v.reg(), v.reg()
	v.and(signs, x, sign)
	v.and(others, x, abs)
	return sign, abs
}

// slope turns s = sigmoid(x) into the derivative of silu, s·(1+x·(1-s)).
func (v isa) slope(x, s VecVirtual) VecVirtual {
	t := v.load(one)
	asm.VSUBPS(s, t, t)
	asm.VFMADD213PS(one, x, t)
	asm.VMULPS(s, t, t)
	return t
}

// maps emits the element-wise functions.
func maps(v isa) {
	unary := func(name, formula string, f func(x VecVirtual) VecVirtual) {
		v.text(name, "func(dst, x []float32)", name+v.name+" is\n\n\tfor i := range x {\n\t\tdst[i] = "+formula+"\n\t}")
		dst, x, n := slice("dst"), slice("x"), length("x")
		v.pairs(n, func(a access, i Register) {
			a.put(f(a.get(at(x, i))), at(dst, i))
		})
		ret()
	}
	unary("exp", "exp(x[i])", v.exp)
	unary("sigmoid", "sigmoid(x[i])", v.sigmoid)
	unary("tanh", "tanh(x[i])", v.tanh)
	unary("silu", "x[i] * sigmoid(x[i])", func(x VecVirtual) VecVirtual {
		y := v.sigmoid(x)
		asm.VMULPS(x, y, y)
		return y
	})
	unary("log", "log(x[i])", v.log)
	unary("symlog", "copysign(log1p(abs(x[i])), x[i])", func(x VecVirtual) VecVirtual {
		s, y := v.sign(x)
		y = v.log1p(y)
		v.or(s, y, y)
		return y
	})
	unary("symexp", "copysign(expm1(abs(x[i])), x[i])", func(x VecVirtual) VecVirtual {
		s, y := v.sign(x)
		y = v.expm1(v.clamp(y, 0, 89))
		v.or(s, y, y)
		return y
	})

	v.text("siluBackward", "func(dx, x, dy []float32)", "siluBackward"+v.name+" is\n\n\tfor i := range x {\n\t\ts := sigmoid(x[i])\n\t\tdx[i] = dy[i] * s * (1 + x[i]*(1-s))\n\t}")
	dx, x, dy, n := slice("dx"), slice("x"), slice("dy"), length("x")
	v.pairs(n, func(a access, i Register) {
		in := a.get(at(x, i))
		t := v.slope(in, v.sigmoid(in))
		asm.VMULPS(a.get(at(dy, i)), t, t)
		a.put(t, at(dx, i))
	})
	ret()
}

// sums emits the plain vector operations.
func sums(v isa) {
	v.text("add", "func(dst, x []float32)", "add"+v.name+" is\n\n\tfor i := range x {\n\t\tdst[i] += x[i]\n\t}")
	dst, x, n := slice("dst"), slice("x"), length("x")
	v.each(n, func(a access, i Register) {
		y := a.get(at(x, i))
		asm.VADDPS(a.get(at(dst, i)), y, y)
		a.put(y, at(dst, i))
	})
	ret()

	v.text("axpy", "func(dst []float32, alpha float32, x []float32)", "axpy"+v.name+" is\n\n\tfor i := range x {\n\t\tdst[i] += alpha * x[i]\n\t}")
	dst, x, n = slice("dst"), slice("x"), length("x")
	alpha := v.param("alpha")
	v.each(n, func(a access, i Register) {
		y := a.get(at(dst, i))
		asm.VFMADD231PS(a.get(at(x, i)), alpha, y)
		a.put(y, at(dst, i))
	})
	ret()

	v.text("scale", "func(dst []float32, alpha float32)", "scale"+v.name+" is\n\n\tfor i := range dst {\n\t\tdst[i] *= alpha\n\t}")
	dst, n = slice("dst"), length("dst")
	alpha = v.param("alpha")
	v.each(n, func(a access, i Register) {
		y := a.get(at(dst, i))
		asm.VMULPS(alpha, y, y)
		a.put(y, at(dst, i))
	})
	ret()
	dot(v)
}

// dot accumulates in float64: a product of two float32 values is exact there.
func dot(v isa) {
	v.text("dot", "func(x, y []float32) (sum float64)", "dot"+v.name+" is\n\n\tfor i := range x {\n\t\tsum += float64(x[i]) * float64(y[i])\n\t}")
	x, y, n := slice("x"), slice("y"), length("x")
	acc := []VecVirtual{v.zero(), v.zero()}
	v.each(n, func(a access, i Register) {
		p, q := a.get(at(x, i)), a.get(at(y, i))
		for h := range acc {
			pd, qd := v.reg(), v.reg()
			asm.VCVTPS2PD(v.part(p, h), pd)
			asm.VCVTPS2PD(v.part(q, h), qd)
			asm.VFMADD231PD(pd, qd, acc[h])
		}
	})
	asm.VADDPD(acc[1], acc[0], acc[0])
	sum := acc[0].AsY()
	if v.lanes == 16 {
		hi := asm.YMM()
		asm.VEXTRACTF64X4(Imm(1), acc[0], hi)
		asm.VADDPD(hi, sum, sum)
	}
	hi := asm.XMM()
	asm.VEXTRACTF128(Imm(1), sum, hi)
	asm.VADDPD(hi, acc[0].AsX(), hi)
	swap := asm.XMM()
	asm.VPERMILPD(Imm(1), hi, swap)
	asm.VADDSD(swap, hi, hi)
	asm.VMOVSD(hi, address(asm.ReturnIndex(0)))
	ret()
}

// part is the lower (0) or upper (1) half of a vector as a register of half the width.
func (v isa) part(r VecVirtual, h int) Op {
	if v.lanes == 16 {
		if h == 0 {
			return r.AsY()
		}
		y := asm.YMM()
		asm.VEXTRACTF64X4(Imm(1), r, y)
		return y
	}
	if h == 0 {
		return r.AsX()
	}
	x := asm.XMM()
	asm.VEXTRACTF128(Imm(1), r, x)
	return x
}
