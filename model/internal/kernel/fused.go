package kernel

// rmsEpsilon is added to the mean square of a row: DreamerV3's 1e-4.
const rmsEpsilon = 1e-4

// RMSNormSiLU is the activation of every hidden layer:
//
//	for r := range rows {
//		inv[r] = 1 / sqrt(mean of x[r*n+i]² + 1e-4)
//		for i := range n {
//			y[r*n+i] = silu(x[r*n+i] * inv[r] * scale[i])
//		}
//	}
//
// y may be x.
func RMSNormSiLU(y, inv, x, scale []float32, rows, n int) {
	scale = scale[:n]
	for r := range rows {
		inv[r] = use.rmsNormSiLU(y[r*n:][:n], x[r*n:][:n], scale, rmsEpsilon)
	}
}

// RMSNormSiLUBackward replaces RMSNormSiLU's x by its gradient and adds that of its scale to dscale,
// row by row in their order, given dy, which it overwrites, and the inv of the forward step.
func RMSNormSiLUBackward(x, dscale, dy, inv, scale []float32, rows, n int) {
	dscale, scale = dscale[:n], scale[:n]
	for r := range rows {
		use.rmsNormSiLUBackward(x[r*n:][:n], dscale, dy[r*n:][:n], scale, inv[r])
	}
}

// Softmax is, for each row of n values,
//
//	p[i] = exp(logits[i] - max) / (sum of exp(logits[j] - max))
//
// p may be logits.
func Softmax(p, logits []float32, rows, n int) {
	if rows > 0 && n > 0 {
		use.softmax(p[:rows*n], logits[:rows*n], rows, n)
	}
}

// LogSoftmax is, for each row of n values,
//
//	lp[i] = logits[i] - max - log(sum of exp(logits[j] - max))
//
// lp may be logits.
func LogSoftmax(lp, logits []float32, rows, n int) {
	if rows > 0 && n > 0 {
		use.logSoftmax(lp[:rows*n], logits[:rows*n], rows, n)
	}
}

// SoftmaxBackward is the gradient of Softmax's logits; for each row of n values,
//
//	dx[i] = p[i] * (dy[i] - (sum of p[j]*dy[j]))
//
// dx may be p or dy.
func SoftmaxBackward(dx, p, dy []float32, rows, n int) {
	if rows > 0 && n > 0 {
		use.softmaxBackward(dx[:rows*n], p[:rows*n], dy[:rows*n], rows, n)
	}
}

// GRU is the element-wise part of a gated recurrent unit with DreamerV3's update bias of -1:
//
//	for i := range out {
//		r[i] = sigmoid(reset[i])
//		c[i] = tanh(r[i] * cand[i])
//		u[i] = sigmoid(update[i] - 1)
//		out[i] = u[i]*c[i] + (1-u[i])*h[i]
//	}
//
// out may be h; r, c and u may be reset, cand and update where no gradient is wanted.
func GRU(out, h, reset, cand, update, r, c, u []float32) {
	n := len(out)
	use.gru(out, h[:n], reset[:n], cand[:n], update[:n], r[:n], c[:n], u[:n])
}

// GRUBackward is the gradient of GRU given dout and what it saved:
//
//	for i := range dout {
//		g := dout[i] * u[i] * (1 - c[i]*c[i])
//		dupdate[i] = dout[i] * (c[i] - h[i]) * u[i] * (1 - u[i])
//		dh[i] += dout[i] * (1 - u[i])
//		dreset[i] = g * cand[i] * r[i] * (1 - r[i])
//		dcand[i] = g * r[i]
//	}
//
// dreset, dcand and dupdate may be r, c and u.
func GRUBackward(dh, dreset, dcand, dupdate, dout, h, cand, r, c, u []float32) {
	n := len(dout)
	use.gruBackward(dh[:n], dreset[:n], dcand[:n], dupdate[:n], dout, h[:n], cand[:n], r[:n], c[:n], u[:n])
}

// LaProp is one step of the LaProp optimiser (Ziyin et al., arXiv 2002.04839): RMS, then momentum.
// c1 and c2 are the bias corrections 1-beta1^t and 1-beta2^t; gscale multiplies the gradient first.
//
//	for i := range p {
//		s := g[i] * gscale
//		v[i] = beta2*v[i] + (1-beta2)*s*s
//		m[i] = beta1*m[i] + (1-beta1)*s/(sqrt(v[i]/c2)+eps)
//		p[i] -= lr / c1 * m[i]
//	}
func LaProp(p, m, v, g []float32, lr, beta1, beta2, c1, c2, eps, gscale float32) {
	n := len(p)
	use.laprop(p, m[:n], v[:n], g[:n], gscale, beta1, 1-beta1, beta2, 1-beta2, 1/c2, eps, lr/c1)
}
