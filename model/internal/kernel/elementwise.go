package kernel

import "math"

// The functions of this file work on len(x) values (or len(dst) where there is no x) and panic when
// another slice is shorter. The destination may be one of the sources, but must not overlap one
// otherwise.

// Exp is dst[i] = exp(x[i]).
func Exp(dst, x []float32) { use.exp(dst[:len(x)], x) }

// Log is dst[i] = log(x[i]): NaN below 0, minus infinity at 0.
func Log(dst, x []float32) { use.log(dst[:len(x)], x) }

// Sigmoid is dst[i] = 1/(1+exp(-x[i])).
func Sigmoid(dst, x []float32) { use.sigmoid(dst[:len(x)], x) }

// Tanh is dst[i] = tanh(x[i]).
func Tanh(dst, x []float32) { use.tanh(dst[:len(x)], x) }

// SiLU is dst[i] = x[i]·sigmoid(x[i]).
func SiLU(dst, x []float32) { use.silu(dst[:len(x)], x) }

// SiLUBackward is dx[i] = dy[i]·s·(1+x[i]·(1-s)) with s = sigmoid(x[i]).
func SiLUBackward(dx, x, dy []float32) { use.siluBackward(dx[:len(x)], x, dy[:len(x)]) }

// Symlog is dst[i] = sign(x[i])·log(1+|x[i]|).
func Symlog(dst, x []float32) { use.symlog(dst[:len(x)], x) }

// Symexp is dst[i] = sign(x[i])·(exp(|x[i]|)-1), the inverse of Symlog.
func Symexp(dst, x []float32) { use.symexp(dst[:len(x)], x) }

// Add is dst[i] += x[i].
func Add(dst, x []float32) { use.add(dst[:len(x)], x) }

// Axpy is dst[i] += alpha·x[i].
func Axpy(dst []float32, alpha float32, x []float32) { use.axpy(dst[:len(x)], alpha, x) }

// Scale is dst[i] *= alpha.
func Scale(dst []float32, alpha float32) { use.scale(dst, alpha) }

// Dot returns the sum of x[i]·y[i] over len(x), accumulated in float64.
func Dot(x, y []float32) float64 { return use.dot(x, y[:len(x)]) }

// SumSquares returns the sum of x[i]², accumulated in float64.
func SumSquares(x []float32) float64 { return use.dot(x, x) }

// Max returns the largest x[i]: NaN if any is NaN, minus infinity if x is empty.
func Max(x []float32) float32 {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v)
	}
	return top
}
