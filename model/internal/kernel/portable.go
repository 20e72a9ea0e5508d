package kernel

import "math"

// portable is the path without assembly: it runs everywhere, and the others are tested against it.
var portable = kernels{
	name:         "portable",
	block:        blockPortable,
	pack:         packPortable,
	direct:       directPortable,
	gather:       gatherPortable,
	scatter:      scatterPortable,
	exp:          each(exp),
	sigmoid:      each(sigmoid),
	tanh:         each(tanh),
	silu:         each(silu),
	symlog:       each(symlog),
	symexp:       each(symexp),
	log:          each(log),
	add:          addPortable,
	siluBackward: siluBackwardPortable,
	axpy: func(dst []float32, alpha float32, x []float32) {
		for i, v := range x {
			dst[i] += alpha * v
		}
	},
	scale:               scalePortable,
	dot:                 dotPortable,
	rmsNormSiLU:         rmsNormSiLUPortable,
	rmsNormSiLUBackward: rmsNormSiLUBackwardPortable,
	softmax:             softmaxPortable,
	logSoftmax:          logSoftmaxPortable,
	softmaxBackward:     softmaxBackwardPortable,
	gru:                 gruPortable,
	gruBackward:         gruBackwardPortable,
	laprop:              lapropPortable,
}

func each(f func(float32) float32) func(dst, x []float32) {
	return func(dst, x []float32) {
		for i, v := range x {
			dst[i] = f(v)
		}
	}
}

func silu(x float32) float32 { return x * sigmoid(x) }

// siluSlope is the derivative of silu at x, where s = sigmoid(x).
func siluSlope(x, s float32) float32 { return s * (1 + x*(1-s)) }

// blockPortable keeps 2×4 sums in registers, which is what scalar code has room for.
func blockPortable(m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int) {
	for j := 0; j < n; j += 4 {
		bp := b[j/panelWidth*panelWidth*k+j%panelWidth:]
		for i := 0; i < m; i += 2 {
			rows := min(2, m-i)
			x, y := a[i*lda:][:k], a[(i+rows-1)*lda:][:k]
			var s [2][4]float32
			for l, xv := range x {
				yv := y[l]
				p := bp[l*panelWidth:][:4]
				s[0][0] += xv * p[0]
				s[0][1] += xv * p[1]
				s[0][2] += xv * p[2]
				s[0][3] += xv * p[3]
				s[1][0] += yv * p[0]
				s[1][1] += yv * p[1]
				s[1][2] += yv * p[2]
				s[1][3] += yv * p[3]
			}
			for r := range rows {
				to := c[(i+r)*ldc+j:][:min(4, n-j)]
				if d == nil {
					copy(to, s[r][:])
					continue
				}
				for q, v := range d[(i+r)*ldd+j:][:len(to)] {
					to[q] = v + s[r][q]
				}
			}
		}
	}
}

// directPortable packs B, and turns A where it is transposed.
func directPortable(s *scratch, x *operands, m, n, k int, c []float32, ldc int, d []float32, ldd int) {
	s.b = grow(s.b, k*panels(n)*panelWidth)
	packPortable(s.b, x.tB, k, n, x.b, x.ldb)
	if !x.tA {
		blockPortable(m, n, k, x.a, x.lda, s.b, c, ldc, d, ldd)
		return
	}
	s.a = grow(s.a, m*k)
	for l := range k {
		for i, v := range x.a[l*x.lda:][:m] {
			s.a[i*k+l] = v
		}
	}
	blockPortable(m, n, k, s.a, k, s.b, c, ldc, d, ldd)
}

func packPortable(dst []float32, tB bool, k, n int, b []float32, ldb int) {
	for j := 0; j < n; j += panelWidth {
		from := j
		if tB {
			from *= ldb
		}
		packPanel(dst[j*k:], tB, k, min(panelWidth, n-j), b[from:], ldb)
	}
}

// packPanel packs the first n columns of op(b) as one panel.
func packPanel(dst []float32, tB bool, k, n int, b []float32, ldb int) {
	for l := range k {
		row := dst[l*panelWidth:][:panelWidth]
		if tB {
			for j := range n {
				row[j] = b[j*ldb+l]
			}
		} else {
			copy(row, b[l*ldb:][:n])
		}
		clear(row[n:])
	}
}

// gatherPortable is GatherRows for the columns [lo, hi).
func gatherPortable(dst []float32, ldd int, idx []int32, rows, s int, w []float32, n, classes, lo, hi int) {
	if lo >= hi {
		return
	}
	for r := range rows {
		to := dst[r*ldd+lo : r*ldd+hi]
		for j, v := range idx[r*s:][:s] {
			at := (j*classes + int(v)) * n
			addPortable(to, w[at+lo:at+hi])
		}
	}
}

// scatterPortable is ScatterRows for the columns [lo, hi).
func scatterPortable(dw []float32, n, classes int, idx []int32, rows, s int, dy []float32, ldy, lo, hi int) {
	if lo >= hi {
		return
	}
	for r := range rows {
		from := dy[r*ldy+lo : r*ldy+hi]
		for j, v := range idx[r*s:][:s] {
			at := (j*classes + int(v)) * n
			addPortable(dw[at+lo:at+hi], from)
		}
	}
}

func addPortable(dst, x []float32) {
	for i, v := range x {
		dst[i] += v
	}
}

func scalePortable(dst []float32, alpha float32) {
	for i := range dst {
		dst[i] *= alpha
	}
}

func dotPortable(x, y []float32) float64 {
	var sum float64
	for i, v := range x {
		sum += float64(v) * float64(y[i])
	}
	return sum
}

func siluBackwardPortable(dx, x, dy []float32) {
	for i, v := range x {
		dx[i] = dy[i] * siluSlope(v, sigmoid(v))
	}
}

func rmsNormSiLUPortable(y, x, scale []float32, eps float32) float32 {
	inv := float32(1 / math.Sqrt(dotPortable(x, x)/float64(len(x))+float64(eps)))
	for i, v := range x {
		y[i] = silu(v * inv * scale[i])
	}
	return inv
}

func rmsNormSiLUBackwardPortable(x, dscale, dy, scale []float32, inv float32) {
	var sum float64
	for i, v := range x {
		norm := v * inv
		h := norm * scale[i]
		dh := dy[i] * siluSlope(h, sigmoid(h))
		dscale[i] += dh * norm
		dy[i] = dh * scale[i]
		sum += float64(dy[i]) * float64(norm)
	}
	mean := float32(sum/float64(len(x))) * inv
	for i, v := range x {
		x[i] = inv * (dy[i] - v*mean)
	}
}

func softmaxPortable(p, x []float32, rows, n int) {
	for r := range rows {
		x, p := x[r*n:][:n], p[r*n:][:n]
		top := Max(x)
		var sum float32
		for i, v := range x {
			p[i] = exp(v - top)
			sum += p[i]
		}
		scalePortable(p, 1/sum)
	}
}

func logSoftmaxPortable(lp, x []float32, rows, n int) {
	for r := range rows {
		x, lp := x[r*n:][:n], lp[r*n:][:n]
		top := Max(x)
		var sum float32
		for _, v := range x {
			sum += exp(v - top)
		}
		shift := log(sum)
		for i, v := range x {
			lp[i] = v - top - shift
		}
	}
}

func softmaxBackwardPortable(dx, p, dy []float32, rows, n int) {
	for r := range rows {
		p, dy, dx := p[r*n:][:n], dy[r*n:][:n], dx[r*n:][:n]
		dot := float32(dotPortable(p, dy))
		for i, v := range p {
			dx[i] = v * (dy[i] - dot)
		}
	}
}

func gruPortable(out, h, reset, cand, update, r, c, u []float32) {
	for i := range out {
		rv := sigmoid(reset[i])
		cv := tanh(rv * cand[i])
		uv := sigmoid(update[i] - 1)
		out[i] = uv*cv + (1-uv)*h[i]
		r[i], c[i], u[i] = rv, cv, uv
	}
}

func gruBackwardPortable(dh, dreset, dcand, dupdate, dout, h, cand, r, c, u []float32) {
	for i, d := range dout {
		rv, cv, uv := r[i], c[i], u[i]
		g := d * uv * (1 - cv*cv)
		dupdate[i] = d * (cv - h[i]) * uv * (1 - uv)
		dh[i] += d * (1 - uv)
		dreset[i], dcand[i] = g*cand[i]*rv*(1-rv), g*rv
	}
}

func lapropPortable(p, m, v, g []float32, gscale, beta1, rest1, beta2, rest2, inv2, eps, rate float32) {
	for i := range p {
		s := g[i] * gscale
		v[i] = beta2*v[i] + rest2*s*s
		m[i] = beta1*m[i] + rest1*s/(float32(math.Sqrt(float64(v[i]*inv2)))+eps)
		p[i] -= rate * m[i]
	}
}
