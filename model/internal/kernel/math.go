package kernel

import "math"

// Scalar exp, log and their relatives, with the polynomials of the Cephes library's single-precision
// functions (Moshier). The assembly evaluates the same ones in the same order, with fused
// multiply-adds.
const (
	log2e = 1.44269504088896341
	// ln2 in two parts; the first has so few digits that its product with an exponent is exact.
	ln2Hi = 0.693359375
	ln2Lo = -2.12194440e-4
	// Below -104 exp rounds to zero, above 89 to infinity.
	expLow, expHigh = -104, 89
	// Beyond it tanh rounds to one: half of what is needed, since tanh uses exp(2x).
	tanhHigh = 18.5
)

// reduce splits x, with |x| <= 104, into k·ln2 + r with |r| <= ln2/2 and returns k and exp(r)-1.
func reduce(x float32) (k int32, q float32) {
	const round = 3 << 22 // adding it rounds to an integer
	n := float32(x*log2e+round) - round
	r := x - n*ln2Hi
	r -= n * ln2Lo
	z := r * r
	p := r*1.9875691500e-4 + 1.3981999507e-3
	p = p*z + (r*8.3334519073e-3 + 4.1665795894e-2)
	p = p*z + (r*1.6666665459e-1 + 5.0000001201e-1)
	return int32(n), p*z + r
}

// power returns 2^k for -127 < k <= 128; 2^128 is infinity.
func power(k int32) float32 { return math.Float32frombits(uint32(k+127) << 23) }

// clamp limits x to [lo, hi] and leaves NaN.
func clamp(x, lo, hi float32) float32 {
	if x < lo {
		return lo
	}
	if x > hi {
		return hi
	}
	return x
}

func exp(x float32) float32 {
	k, q := reduce(clamp(x, expLow, expHigh))
	// In two factors, so that results down to the smallest subnormal and up to infinity come right.
	half := k >> 1
	return (q + 1) * power(half) * power(k-half)
}

// expm1 returns exp(x)-1 for |x| <= 89.
func expm1(x float32) float32 {
	k, q := reduce(x)
	s := power(k - 1) // of half the size, since 2^128 is no number
	return 2 * (q*s + (s - 0.5))
}

// sigmoid gives 0 where the result would be subnormal, as the assembly does.
func sigmoid(x float32) float32 {
	k, q := reduce(clamp(-x, -87, expHigh))
	return 1 / (1 + (q+1)*power(k))
}

func tanh(x float32) float32 {
	y := expm1(clamp(x+x, -tanhHigh, tanhHigh))
	return y / (y + 2)
}

// logOf returns the logarithm of u + d, where u is positive, normal and finite and d a rounding error
// of u.
func logOf(u, d float32) float32 {
	const sqrtHalf = 0x3f3504f3 // the bits of 1/sqrt(2), least of the reduced values
	bits := int32(math.Float32bits(u))
	k := (bits - sqrtHalf) >> 23
	m := math.Float32frombits(uint32(bits-k<<23)) - 1
	m += d * power(-min(k, 126)) // d is 0 where k is larger
	n := float32(k)
	p := float32(7.0376836292e-2)
	p = p*m - 1.1514610310e-1
	p = p*m + 1.1676998740e-1
	p = p*m - 1.2420140846e-1
	p = p*m + 1.4249322787e-1
	p = p*m - 1.6668057665e-1
	p = p*m + 2.0000714765e-1
	p = p*m - 2.4999993993e-1
	p = p*m + 3.3333331174e-1
	z := m * m
	p *= z * m
	p += n * ln2Lo
	p -= 0.5 * z
	return m + p + n*ln2Hi
}

func log(x float32) float32 {
	const least = 0x1p-126 // normal number
	switch {
	case x == 0:
		return float32(math.Inf(-1))
	case x < 0:
		return float32(math.NaN())
	case !(x <= math.MaxFloat32):
		return x
	case x < least:
		return logOf(x*0x1p32, 0) - 32*math.Ln2
	}
	return logOf(x, 0)
}

// log1p returns log(1+x) for x >= 0.
func log1p(x float32) float32 {
	if !(x <= math.MaxFloat32) {
		return x
	}
	u := 1 + x
	return logOf(u, x-(u-1))
}

func symlog(x float32) float32 {
	sign, abs := split(x)
	return math.Float32frombits(math.Float32bits(log1p(abs)) | sign)
}

func symexp(x float32) float32 {
	sign, abs := split(x)
	return math.Float32frombits(math.Float32bits(expm1(clamp(abs, 0, expHigh))) | sign)
}

// split returns the sign bit and the absolute value of x.
func split(x float32) (sign uint32, abs float32) {
	const bit = 1 << 31
	b := math.Float32bits(x)
	return b & bit, math.Float32frombits(b &^ bit)
}
