package model

import (
	"math"

	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// Symlog is sign(x)·ln(1+|x|) (DreamerV3, eq. 9).
func Symlog(x float64) float64 { return math.Copysign(math.Log1p(math.Abs(x)), x) }

// Symexp is its inverse, sign(x)·(exp(|x|)-1).
func Symexp(x float64) float64 { return math.Copysign(math.Expm1(math.Abs(x)), x) }

// SymlogTo writes symlog(x).
func SymlogTo(dst, x []float32) { kernel.Symlog(dst, x) }

// TwoHot is a categorical distribution over symexp-spaced bins, from
// symexp(-20) to symexp(20), used as a regression head (DreamerV3, eq. 10 and
// section "Robust predictions").
type TwoHot struct {
	Bins []float32
	Pool *Pool // shares the rows of Probs and Means where set; then one goroutine at a time

	probs, logits, means []float32 // arguments of the running call
	rowsF                func(lo, hi int)
}

// NewTwoHot makes n bins, n odd, exactly symmetric around a bin at zero.
func NewTwoHot(n int) *TwoHot {
	t := &TwoHot{Bins: make([]float32, n)}
	t.rowsF = t.rows
	for i := n/2 + 1; i < n; i++ {
		v := float32(Symexp(-20 + 40*float64(i)/float64(n-1)))
		t.Bins[i], t.Bins[n-1-i] = v, -v
	}
	return t
}

// Encode returns the two bins nearest to x and the weight of the upper one;
// values beyond the range go to the outermost bin.
func (t *TwoHot) Encode(x float32) (below, above int, weight float32) {
	n := len(t.Bins)
	lo, hi := 0, n
	for lo < hi { // first bin above x
		mid := (lo + hi) / 2
		if t.Bins[mid] <= x {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	switch {
	case lo == 0:
		return 0, 0, 1
	case lo == n:
		return n - 1, n - 1, 1
	}
	a, b := t.Bins[lo-1], t.Bins[lo]
	return lo - 1, lo, (x - a) / (b - a)
}

// Mean is the expected value under probabilities p, in linear space. Bins are
// summed in pairs of opposite sign from the middle outwards, so that a uniform
// distribution gives exactly zero in spite of bins of size 5e8.
func (t *TwoHot) Mean(p []float32) float32 {
	n := len(t.Bins)
	p = p[:n]
	term := func(i int) float64 { return float64(p[i]-p[n-1-i]) * float64(t.Bins[i]) }
	// Four sums side by side: the chain of additions is what takes time.
	var a, b, c, d float64
	i := n/2 + 1
	for ; i+3 < n; i += 4 {
		a += term(i)
		b += term(i + 1)
		c += term(i + 2)
		d += term(i + 3)
	}
	for ; i < n; i++ {
		a += term(i)
	}
	return float32((a + b) + (c + d))
}

// Probs writes the softmax of each row of logits.
func (t *TwoHot) Probs(probs, logits []float32) { t.run(probs, logits, nil) }

// Means writes the mean of each row of logits; probs is scratch of their size.
func (t *TwoHot) Means(dst, probs, logits []float32) { t.run(probs, logits, dst) }

func (t *TwoHot) run(probs, logits, means []float32) {
	t.probs, t.logits, t.means = probs, logits, means
	share(t.Pool, len(logits)/len(t.Bins), t.rowsF)
}

func (t *TwoHot) rows(lo, hi int) {
	n := len(t.Bins)
	if t.means == nil {
		kernel.Softmax(t.probs[lo*n:hi*n], t.logits[lo*n:hi*n], hi-lo, n)
		return
	}
	p := t.probs[lo*n : (lo+1)*n] // for one row after the other: it stays in the cache
	for r := lo; r < hi; r++ {
		kernel.Softmax(p, t.logits[r*n:(r+1)*n], 1, n)
		t.means[r] = t.Mean(p)
	}
}

// share runs f over n rows, on the threads of a pool if there is one.
func share(pool *Pool, n int, f func(lo, hi int)) {
	if pool == nil {
		f(0, n)
		return
	}
	pool.Run(n, f)
}

// Loss is the cross-entropy of one row, of which it takes the logits and their
// softmax, with the two-hot encoding of x.
func (t *TwoHot) Loss(logits, p []float32, x float32) float64 {
	below, above, w := t.Encode(x)
	// The logarithm of the softmax's denominator, by any class whose probability
	// is a float of full precision, which the target's need not be.
	const precise = 0x1p-126
	k := below
	if p[k] < precise {
		k = above
	}
	if p[k] < precise {
		k = int(argmax(p))
	}
	shift := float64(logits[k]) - math.Log(float64(p[k]))
	return shift - float64(1-w)*float64(logits[below]) - float64(w)*float64(logits[above])
}

// LossBack adds scale times the gradient of Loss with respect to the logits,
// (p - target), to dlogits.
func (t *TwoHot) LossBack(dlogits, p []float32, x, scale float32) {
	below, above, w := t.Encode(x)
	kernel.Axpy(dlogits, scale, p)
	dlogits[below] -= scale * (1 - w)
	dlogits[above] -= scale * w
}

// KL computes the KL divergence of posteriors from priors, given the logits of
// both, and its gradients.
type KL struct {
	Pool *Pool // shares the rows where set

	cfg          Config
	p, q, sp, sq []float32
	dp, dq       []float32 // gradients with respect to p and, negated, q
	uniform      []float32 // what is mixed in, for a block of rows

	// Arguments of the running call.
	kl                      []float64
	post, prior             []float32
	dpost, dprior           []float32
	weightPost, weightPrior []float32
	rowsF, backF            func(lo, hi int)
}

// NewKL makes the scratch for batches of rows rows.
func NewKL(c Config, rows int) *KL {
	k := &KL{cfg: c}
	k.rowsF, k.backF = k.rows, k.back
	if !c.Gaussian {
		n := rows * c.StochLen()
		k.p, k.q, k.dp, k.dq = make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		k.sp, k.sq = make([]float32, n), make([]float32, n)
		k.uniform = make([]float32, klRows*c.StochLen())
		for i := range k.uniform {
			// Without a mixture a probability may be zero, and its logarithm must
			// not be infinite: it is as good as the smallest float.
			k.uniform[i] = max(c.Unimix/float32(c.Classes), 1e-37)
		}
	}
	return k
}

// klRows is the number of rows that go through all passes of Rows together:
// few, so that they stay in the cache.
const klRows = 8

// Rows writes the divergence of each row in nats, summed over latents.
func (k *KL) Rows(kl []float64, post, prior []float32) {
	k.kl, k.post, k.prior = kl, post, prior
	share(k.Pool, len(kl), k.rowsF)
}

func (k *KL) rows(lo, hi int) {
	c := &k.cfg
	w := c.StochLen()
	if c.Gaussian {
		for r := lo; r < hi; r++ {
			k.kl[r] = gaussianKL(k.post[2*r*w:2*(r+1)*w], k.prior[2*r*w:2*(r+1)*w])
		}
		return
	}
	for ; lo < hi; lo += klRows {
		k.categorical(lo, min(lo+klRows, hi))
	}
}

func (k *KL) categorical(lo, hi int) {
	c := &k.cfg
	w := c.StochLen()
	s, e, n := lo*w, hi*w, (hi-lo)*c.Stoch
	p, q, sp, sq, dp, dq := k.p[s:e], k.q[s:e], k.sp[s:e], k.sq[s:e], k.dp[s:e], k.dq[s:e]
	kernel.Softmax(sp, k.post[s:e], n, c.Classes)
	kernel.Softmax(sq, k.prior[s:e], n, c.Classes)
	copy(p, k.uniform)
	copy(q, k.uniform)
	kernel.Axpy(p, 1-c.Unimix, sp)
	kernel.Axpy(q, 1-c.Unimix, sq)
	// log p - log q is what the posterior's gradient needs too.
	kernel.Log(dp, p)
	kernel.Log(dq, q)
	kernel.Axpy(dp, -1, dq)
	for r := lo; r < hi; r++ {
		k.kl[r] = kernel.Dot(k.p[r*w:(r+1)*w], k.dp[r*w:(r+1)*w])
	}
	// p/q, without a division for each class.
	kernel.Exp(dq, dp)
}

// Back adds, after Rows, weightPost[r] and weightPrior[r] times the gradient
// of row r's divergence to the gradients of the logits.
func (k *KL) Back(dpost, dprior, post, prior []float32, weightPost, weightPrior []float32) {
	k.dpost, k.dprior, k.post, k.prior = dpost, dprior, post, prior
	k.weightPost, k.weightPrior = weightPost, weightPrior
	share(k.Pool, len(weightPost), k.backF)
}

func (k *KL) back(lo, hi int) {
	c := &k.cfg
	w := c.StochLen()
	if c.Gaussian {
		for r := lo; r < hi; r++ {
			s, e := 2*r*w, 2*(r+1)*w
			gaussianKLBack(k.dpost[s:e], k.dprior[s:e], k.post[s:e], k.prior[s:e], k.weightPost[r], k.weightPrior[r])
		}
		return
	}
	s, e, n := lo*w, hi*w, (hi-lo)*c.Stoch
	kernel.SoftmaxBackward(k.p[s:e], k.sp[s:e], k.dp[s:e], n, c.Classes)
	kernel.SoftmaxBackward(k.q[s:e], k.sq[s:e], k.dq[s:e], n, c.Classes)
	for r := lo; r < hi; r++ {
		s, e := r*w, (r+1)*w
		kernel.Axpy(k.dpost[s:e], k.weightPost[r]*(1-c.Unimix), k.p[s:e])
		kernel.Axpy(k.dprior[s:e], -k.weightPrior[r]*(1-c.Unimix), k.q[s:e])
	}
}

func gaussianKL(post, prior []float32) float64 {
	w := len(post) / 2
	var sum float64
	for i := range w {
		sp, _ := gaussianStd(post[w+i])
		sq, _ := gaussianStd(prior[w+i])
		d := float64(post[i]-prior[i]) / float64(sq)
		ratio := float64(sp) / float64(sq)
		sum += 0.5*(ratio*ratio+d*d-1) - math.Log(ratio)
	}
	return sum
}

func gaussianKLBack(dpost, dprior, post, prior []float32, wp, wq float32) {
	w := len(post) / 2
	for i := range w {
		sp, gp := gaussianStd(post[w+i])
		sq, gq := gaussianStd(prior[w+i])
		d := (post[i] - prior[i]) / (sq * sq)
		dpost[i] += wp * d
		dpost[w+i] += wp * (sp/(sq*sq) - 1/sp) * gp * (1 - gp)
		dprior[i] -= wq * d
		diff := post[i] - prior[i]
		dprior[w+i] += wq * (1/sq - (sp*sp+diff*diff)/(sq*sq*sq)) * gq * (1 - gq)
	}
}
