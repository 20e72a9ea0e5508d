package kernel

import (
	"fmt"
	"math"
	"testing"
)

// agree is the tolerance between a path and the float64 reference, relative to a result's largest value.
const agree = 2e-6

func to64(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func to32(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

func clone(x []float32) []float32 { return append([]float32(nil), x...) }

// widths are row lengths: actions, classes, layers and bins.
var widths = []int{1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 32, 100, 128, 255}

func TestRMSNormSiLU(t *testing.T) {
	const rows = 5
	onEachPath(t, func(t *testing.T) {
		for _, n := range widths {
			x, scale, dy := random(1, rows*n, 3), random(2, n, 1), random(3, rows*n, 1)
			dscale := random(4, n, 1)
			wantY, wantInv := make([]float64, rows*n), make([]float64, rows)
			wantDx, wantDscale := make([]float64, rows*n), to64(dscale)
			for r := range rows {
				var squares, dot float64
				for i := range n {
					squares += float64(x[r*n+i]) * float64(x[r*n+i])
				}
				inv := 1 / math.Sqrt(squares/float64(n)+1e-4)
				wantInv[r] = inv
				g := make([]float64, n)
				for i := range n {
					norm := float64(x[r*n+i]) * inv
					h := norm * float64(scale[i])
					s := sigmoid64(h)
					wantY[r*n+i] = h * s
					dh := float64(dy[r*n+i]) * s * (1 + h*(1-s))
					wantDscale[i] += dh * norm
					g[i] = dh * float64(scale[i])
					dot += g[i] * norm
				}
				for i := range n {
					wantDx[r*n+i] = inv * (g[i] - float64(x[r*n+i])*inv*dot/float64(n))
				}
			}
			what := fmt.Sprintf("width %d", n)
			y, inv, dx := make([]float32, rows*n), make([]float32, rows), clone(x)
			RMSNormSiLU(y, inv, x, scale, rows, n)
			near(t, what+" y", y, to32(wantY), agree)
			near(t, what+" inv", inv, to32(wantInv), agree)
			RMSNormSiLUBackward(dx, dscale, dy, inv, scale, rows, n)
			near(t, what+" dscale", dscale, to32(wantDscale), agree)
			if n > 1 { // of one value the gradient is all but cancelled
				near(t, what+" dx", dx, to32(wantDx), agree)
			}
			RMSNormSiLU(x, inv, x, scale, rows, n)
			same(t, what+" in place", x, y)
		}
	})
}

func TestSoftmax(t *testing.T) {
	const rows = 6
	onEachPath(t, func(t *testing.T) {
		for _, n := range widths {
			x, dy := random(1, rows*n, 4), random(2, rows*n, 1)
			for i := range n {
				x[i] += 300 // as large as would overflow without the maximum
			}
			p, lp, dx := make([]float64, rows*n), make([]float64, rows*n), make([]float64, rows*n)
			for r := range rows {
				top, sum, dot := math.Inf(-1), 0.0, 0.0
				for i := range n {
					top = max(top, float64(x[r*n+i]))
				}
				for i := range n {
					sum += math.Exp(float64(x[r*n+i]) - top)
				}
				for i := range n {
					lp[r*n+i] = float64(x[r*n+i]) - top - math.Log(sum)
					p[r*n+i] = math.Exp(lp[r*n+i])
					dot += p[r*n+i] * float64(dy[r*n+i])
				}
				for i := range n {
					dx[r*n+i] = p[r*n+i] * (float64(dy[r*n+i]) - dot)
				}
			}
			what := fmt.Sprintf("width %d", n)
			got := make([]float32, rows*n)
			LogSoftmax(got, x, rows, n)
			near(t, what+" logarithm", got, to32(lp), agree)
			Softmax(got, x, rows, n)
			near(t, what, got, to32(p), agree)
			Softmax(x, x, rows, n)
			same(t, what+" in place", x, got)
			SoftmaxBackward(dy, got, dy, rows, n)
			if n > 1 {
				near(t, what+" gradient", dy, to32(dx), agree)
			}
		}
	})
}

// TestSoftmaxRows holds that NaN stays in its own row and that impossible classes have no probability.
func TestSoftmaxRows(t *testing.T) {
	inf := float32(math.Inf(-1))
	onEachPath(t, func(t *testing.T) {
		for _, n := range []int{2, 10, 16, 40} {
			x, p := random(1, 3*n, 1), make([]float32, 3*n)
			x[n] = float32(math.NaN())
			x[2*n+1] = inf
			Softmax(p, x, 3, n)
			for i := range n {
				if p[i] != p[i] || p[n+i] == p[n+i] || p[2*n+i] != p[2*n+i] {
					t.Fatalf("width %d, class %d: probabilities %g, %g, %g, want only the second NaN", n, i, p[i], p[n+i], p[2*n+i])
				}
			}
			if p[2*n+1] != 0 {
				t.Errorf("width %d: a class of logit -Inf has probability %g", n, p[2*n+1])
			}
			LogSoftmax(p, x, 3, n)
			if p[2*n+1] != inf || p[2*n] != p[2*n] || p[n+1] == p[n+1] {
				t.Errorf("width %d: logarithms %g, %g, %g, want -Inf, a number, NaN", n, p[2*n+1], p[2*n], p[n+1])
			}
		}
	})
}

func TestGRU(t *testing.T) {
	onEachPath(t, func(t *testing.T) {
		for _, n := range lengths {
			h, reset, cand, update := random(1, n, 1), random(2, n, 2), random(3, n, 2), random(4, n, 2)
			dout, dh := random(5, n, 1), random(6, n, 1)
			want := make([][]float64, 8)
			for i := range want {
				want[i] = make([]float64, n)
			}
			for i := range n {
				r := sigmoid64(float64(reset[i]))
				c := math.Tanh(r * float64(cand[i]))
				u := sigmoid64(float64(update[i]) - 1)
				d, hi := float64(dout[i]), float64(h[i])
				g := d * u * (1 - c*c)
				for j, v := range []float64{r, c, u, u*c + (1-u)*hi, float64(dh[i]) + d*(1-u), g * float64(cand[i]) * r * (1 - r), g * r, d * (c - hi) * u * (1 - u)} {
					want[j][i] = v
				}
			}
			out, r, c, u := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
			dreset, dcand, dupdate := make([]float32, n), make([]float32, n), make([]float32, n)
			GRU(out, h, reset, cand, update, r, c, u)
			GRUBackward(dh, dreset, dcand, dupdate, dout, h, cand, r, c, u)
			for j, got := range [][]float32{r, c, u, out, dh, dreset, dcand, dupdate} {
				near(t, fmt.Sprintf("length %d, result %d", n, j), got, to32(want[j]), agree)
			}
			GRUBackward(dh, r, c, u, dout, h, cand, r, c, u)
			same(t, "dreset in place", r, dreset)
			same(t, "dcand in place", c, dcand)
			same(t, "dupdate in place", u, dupdate)
			GRU(h, h, reset, cand, update, reset, cand, update)
			same(t, "state in place", h, out)
		}
	})
}

func TestLaProp(t *testing.T) {
	const lr, beta1, beta2, eps, gscale = 0.01, 0.9, 0.999, 1e-20, 0.5
	onEachPath(t, func(t *testing.T) {
		for _, n := range lengths {
			p, m, v := random(1, n, 1), make([]float32, n), make([]float32, n)
			wp, wm, wv := to64(p), make([]float64, n), make([]float64, n)
			for step := 1; step <= 5; step++ {
				g := random(uint64(step), n, 1e-3)
				if n > 0 {
					g[0] = 0 // never a gradient: the parameter must stay
				}
				c1, c2 := 1-math.Pow(beta1, float64(step)), 1-math.Pow(beta2, float64(step))
				LaProp(p, m, v, g, lr, beta1, beta2, float32(c1), float32(c2), eps, gscale)
				for i := range n {
					s := float64(g[i]) * gscale
					wv[i] = beta2*wv[i] + (1-beta2)*s*s
					wm[i] = beta1*wm[i] + (1-beta1)*s/(math.Sqrt(wv[i]/c2)+eps)
					wp[i] -= lr * wm[i] / c1
				}
			}
			// 1-0.999 as a float32 is 2e-5 off, half of which is in the root.
			near(t, "parameters", p, to32(wp), 1e-6)
			near(t, "momentum", m, to32(wm), 5e-5)
			near(t, "second moment", v, to32(wv), 5e-5)
		}
	})
}
