package main

import (
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// rowwise emits the functions that reduce over one row at a time.
func rowwise(v isa) {
	rmsNormSiLU(v)
	rmsNormSiLUBackward(v)
	softmax(v)
	logSoftmax(v)
	softmaxBackward(v)
}

func rmsNormSiLU(v isa) {
	v.text("rmsNormSiLU", "func(y, x, scale []float32, eps float32) (inv float32)", "rmsNormSiLU"+v.name+
		" is, for n = len(x),\n\n\tinv = 1 / sqrt(sum of x[i]*x[i]/n + eps)\n\tfor i := range x {\n\t\th := x[i] * inv * scale[i]\n\t\ty[i] = h * sigmoid(h)\n\t}")
	y, x, scale, n := slice("y"), slice("x"), slice("scale"), length("x")
	squares := [2]VecVirtual{v.zero(), v.zero()} // one for each of a pair
	v.pairs(n, func(a access, i Register) {
		in := a.get(at(x, i))
		sum := squares[a.disp/v.bytes()]
		asm.VFMADD231PS(in, in, sum)
	})
	asm.VADDPS(squares[1], squares[0], squares[0])
	mean, count := v.sum(squares[0]).AsX(), asm.XMM()
	asm.VXORPS(count, count, count)
	asm.VCVTSI2SSQ(n, count, count)
	asm.VDIVSS(count, mean, mean)
	asm.VADDSS(address(asm.Param("eps")), mean, mean)
	asm.VSQRTSS(mean, mean, mean)
	inv1 := asm.XMM()
	asm.VMOVSS(one, inv1)
	asm.VDIVSS(mean, inv1, inv1)
	asm.VMOVSS(inv1, address(asm.ReturnIndex(0)))
	inv := v.reg()
	asm.VBROADCASTSS(inv1, inv)
	v.pairs(n, func(a access, i Register) {
		h := v.reg()
		asm.VMULPS(a.get(at(x, i)), inv, h)
		asm.VMULPS(a.get(at(scale, i)), h, h)
		s := v.sigmoid(h)
		asm.VMULPS(h, s, s)
		a.put(s, at(y, i))
	})
	ret()
}

func rmsNormSiLUBackward(v isa) {
	v.text("rmsNormSiLUBackward", "func(x, dscale, dy, scale []float32, inv float32)", "rmsNormSiLUBackward"+v.name+
		" is, for n = len(x),\n\n\tfor i := range x {\n\t\tnorm := x[i] * inv\n\t\th := norm * scale[i]\n\t\ts := sigmoid(h)\n\t\tdh := dy[i] * s * (1 + h*(1-s))\n\t\tdscale[i] += dh * norm\n\t\tdy[i] = dh * scale[i]\n\t\tmean += dy[i] * norm / n\n\t}\n\tfor i := range x {\n\t\tx[i] = inv * (dy[i] - x[i]*inv*mean)\n\t}")
	x, dscale, dy, scale, n := slice("x"), slice("dscale"), slice("dy"), slice("scale"), length("x")
	inv := v.param("inv")
	acc := v.zero()
	v.pairs(n, func(a access, i Register) {
		h, norm := v.reg(), v.reg()
		asm.VMULPS(a.get(at(x, i)), inv, h)
		asm.VMULPS(a.get(at(scale, i)), h, h)
		dh := v.slope(h, v.sigmoid(h))
		asm.VMULPS(a.get(at(dy, i)), dh, dh)
		asm.VMULPS(a.get(at(x, i)), inv, norm) // again, rather than kept: registers are short
		ds := a.get(at(dscale, i))
		asm.VFMADD231PS(dh, norm, ds)
		a.put(ds, at(dscale, i))
		asm.VMULPS(a.get(at(scale, i)), dh, dh)
		asm.VFMADD231PS(dh, norm, acc)
		a.put(dh, at(dy, i))
	})
	total, count := v.sum(acc).AsX(), asm.XMM()
	asm.VXORPS(count, count, count)
	asm.VCVTSI2SSQ(n, count, count)
	asm.VDIVSS(count, total, total)
	mean := v.reg()
	asm.VBROADCASTSS(total, mean)
	asm.VMULPS(inv, mean, mean)
	v.each(n, func(a access, i Register) {
		g := a.get(at(dy, i))
		asm.VFNMADD231PS(a.get(at(x, i)), mean, g)
		asm.VMULPS(inv, g, g)
		a.put(g, at(x, i))
	})
	ret()
}

// eachRow emits a loop over rows; the pointers advance by n float32 values after each.
func eachRow(rows, n Register, pointers []Register, body func()) {
	loop, done := label("row"), label("rowsDone")
	asm.TESTQ(rows, rows)
	asm.JLE(LabelRef(done))
	asm.Label(loop)
	body()
	for _, p := range pointers {
		asm.LEAQ(Mem{Base: p, Index: n, Scale: 4}, p)
	}
	asm.DECQ(rows)
	asm.JNZ(LabelRef(loop))
	asm.Label(done)
}

// rowMax returns the largest of n values in all lanes.
func (v isa) rowMax(x, n Register) VecVirtual {
	low := v.load(splat(minusInfinity))
	top := v.load(splat(minusInfinity))
	v.each(n, func(a access, i Register) {
		asm.VMAXPS(a.getFilled(at(x, i), low), top, top)
	})
	return v.broadcast(v.max(top))
}

func softmax(v isa) {
	v.text("softmax", "func(p, x []float32, rows, n int)", "softmax"+v.name+
		" is, for each row of n values,\n\n\ttop := largest x[i]\n\tfor i := range n {\n\t\tp[i] = exp(x[i] - top)\n\t\tsum += p[i]\n\t}\n\tfor i := range n {\n\t\tp[i] *= 1 / sum\n\t}")
	p, x := slice("p"), slice("x")
	rows, n := asm.Load(asm.Param("rows"), asm.GP64()), asm.Load(asm.Param("n"), asm.GP64())
	eachRow(rows, n, []Register{p, x}, func() {
		top := v.rowMax(x, n)
		sum := v.zero()
		v.pairs(n, func(a access, i Register) {
			y := a.get(at(x, i))
			asm.VSUBPS(top, y, y)
			y = v.exp(y)
			a.zeroOutside(y)
			asm.VADDPS(y, sum, sum)
			a.put(y, at(p, i))
		})
		total := v.sum(sum).AsX()
		inv := asm.XMM()
		asm.VMOVSS(one, inv)
		asm.VDIVSS(total, inv, inv)
		by := v.broadcast(inv)
		v.each(n, func(a access, i Register) {
			y := a.get(at(p, i))
			asm.VMULPS(by, y, y)
			a.put(y, at(p, i))
		})
	})
	ret()
}

func logSoftmax(v isa) {
	v.text("logSoftmax", "func(lp, x []float32, rows, n int)", "logSoftmax"+v.name+
		" is, for each row of n values,\n\n\ttop := largest x[i]\n\tsum := sum of exp(x[i] - top)\n\tfor i := range n {\n\t\tlp[i] = x[i] - top - log(sum)\n\t}")
	lp, x := slice("lp"), slice("x")
	rows, n := asm.Load(asm.Param("rows"), asm.GP64()), asm.Load(asm.Param("n"), asm.GP64())
	eachRow(rows, n, []Register{lp, x}, func() {
		top := v.rowMax(x, n)
		sum := v.zero()
		v.pairs(n, func(a access, i Register) {
			y := a.get(at(x, i))
			asm.VSUBPS(top, y, y)
			y = v.exp(y)
			a.zeroOutside(y)
			asm.VADDPS(y, sum, sum)
		})
		total := v.broadcast(v.sum(sum))
		shift := v.logOf(total, nil)
		v.keepSpecial(shift, total)
		v.each(n, func(a access, i Register) {
			y := a.get(at(x, i))
			asm.VSUBPS(top, y, y)
			asm.VSUBPS(shift, y, y)
			a.put(y, at(lp, i))
		})
	})
	ret()
}

func softmaxBackward(v isa) {
	v.text("softmaxBackward", "func(dx, p, dy []float32, rows, n int)", "softmaxBackward"+v.name+
		" is, for each row of n values,\n\n\tfor i := range n {\n\t\tdot += p[i] * dy[i]\n\t}\n\tfor i := range n {\n\t\tdx[i] = p[i] * (dy[i] - dot)\n\t}")
	dx, p, dy := slice("dx"), slice("p"), slice("dy")
	rows, n := asm.Load(asm.Param("rows"), asm.GP64()), asm.Load(asm.Param("n"), asm.GP64())
	eachRow(rows, n, []Register{dx, p, dy}, func() {
		acc := v.zero()
		v.each(n, func(a access, i Register) {
			asm.VFMADD231PS(a.get(at(p, i)), a.get(at(dy, i)), acc)
		})
		dot := v.broadcast(v.sum(acc))
		v.each(n, func(a access, i Register) {
			y := a.get(at(dy, i))
			asm.VSUBPS(dot, y, y)
			asm.VMULPS(a.get(at(p, i)), y, y)
			a.put(y, at(dx, i))
		})
	})
	ret()
}

func gru(v isa) {
	v.text("gru", "func(out, h, reset, cand, update, r, c, u []float32)", "gru"+v.name+
		" is\n\n\tfor i := range out {\n\t\tr[i] = sigmoid(reset[i])\n\t\tc[i] = tanh(r[i] * cand[i])\n\t\tu[i] = sigmoid(update[i] - 1)\n\t\tout[i] = u[i]*c[i] + (1-u[i])*h[i]\n\t}")
	out, h, reset, cand, update := slice("out"), slice("h"), slice("reset"), slice("cand"), slice("update")
	r, c, u, n := slice("r"), slice("c"), slice("u"), length("out")
	v.pairs(n, func(a access, i Register) {
		rv := v.sigmoid(a.get(at(reset, i)))
		a.put(rv, at(r, i))
		asm.VMULPS(a.get(at(cand, i)), rv, rv)
		cv := v.tanh(rv)
		a.put(cv, at(c, i))
		uv := a.get(at(update, i))
		asm.VSUBPS(one, uv, uv)
		uv = v.sigmoid(uv)
		a.put(uv, at(u, i))
		asm.VMULPS(uv, cv, cv)
		rest := v.load(one)
		asm.VSUBPS(uv, rest, rest)
		asm.VFMADD231PS(a.get(at(h, i)), rest, cv)
		a.put(cv, at(out, i))
	})
	ret()

	v.text("gruBackward", "func(dh, dreset, dcand, dupdate, dout, h, cand, r, c, u []float32)", "gruBackward"+v.name+
		" is\n\n\tfor i := range dout {\n\t\tg := dout[i] * u[i] * (1 - c[i]*c[i])\n\t\tdupdate[i] = dout[i] * (c[i] - h[i]) * u[i] * (1 - u[i])\n\t\tdh[i] += dout[i] * (1 - u[i])\n\t\tdreset[i] = g * cand[i] * r[i] * (1 - r[i])\n\t\tdcand[i] = g * r[i]\n\t}")
	dh, dreset, dcand, dupdate, dout := slice("dh"), slice("dreset"), slice("dcand"), slice("dupdate"), slice("dout")
	h, cand, r, c, u, n = slice("h"), slice("cand"), slice("r"), slice("c"), slice("u"), length("dout")
	v.each(n, func(a access, i Register) {
		d, uv, cv := a.get(at(dout, i)), a.get(at(u, i)), a.get(at(c, i))
		rest := v.load(one)
		asm.VSUBPS(uv, rest, rest)
		keep := v.reg() // dout·(1-u)
		asm.VMULPS(d, rest, keep)
		du := v.reg()
		asm.VSUBPS(a.get(at(h, i)), cv, du)
		asm.VMULPS(keep, du, du)
		asm.VMULPS(uv, du, du)
		g := v.load(one)
		asm.VFNMADD231PS(cv, cv, g)
		asm.VMULPS(uv, g, g)
		asm.VMULPS(d, g, g)
		asm.VADDPS(a.get(at(dh, i)), keep, keep)
		rv := a.get(at(r, i))
		gr, slope := v.reg(), v.load(one)
		asm.VMULPS(rv, g, gr)
		asm.VSUBPS(rv, slope, slope)
		asm.VMULPS(gr, slope, slope)
		asm.VMULPS(a.get(at(cand, i)), slope, slope)
		a.put(du, at(dupdate, i))
		a.put(keep, at(dh, i))
		a.put(slope, at(dreset, i))
		a.put(gr, at(dcand, i))
	})
	ret()
}

func laprop(v isa) {
	v.text("laprop", "func(p, m, v, g []float32, gscale, beta1, rest1, beta2, rest2, inv2, eps, rate float32)", "laprop"+v.name+
		" is\n\n\tfor i := range p {\n\t\ts := g[i] * gscale\n\t\tv[i] = beta2*v[i] + rest2*s*s\n\t\tm[i] = beta1*m[i] + rest1*s/(sqrt(v[i]*inv2)+eps)\n\t\tp[i] -= rate * m[i]\n\t}")
	p, m, vs, g, n := slice("p"), slice("m"), slice("v"), slice("g"), length("p")
	gscale, beta1, rest1, beta2, rest2 := v.param("gscale"), v.param("beta1"), v.param("rest1"), v.param("beta2"), v.param("rest2")
	inv2, eps, rate := v.param("inv2"), v.param("eps"), v.param("rate")
	v.each(n, func(a access, i Register) {
		s := a.get(at(g, i))
		asm.VMULPS(gscale, s, s)
		second, t := a.get(at(vs, i)), v.reg()
		asm.VMULPS(beta2, second, second)
		asm.VMULPS(s, s, t)
		asm.VFMADD231PS(t, rest2, second)
		a.put(second, at(vs, i))
		asm.VMULPS(inv2, second, second)
		asm.VSQRTPS(second, second)
		asm.VADDPS(eps, second, second)
		asm.VMULPS(rest1, s, s)
		asm.VDIVPS(second, s, s)
		first := a.get(at(m, i))
		asm.VFMADD213PS(s, beta1, first)
		a.put(first, at(m, i))
		w := a.get(at(p, i))
		asm.VFNMADD231PS(first, rate, w)
		a.put(w, at(p, i))
	})
	ret()
}
