package kernel

import (
	"fmt"
	"os"
	"strings"
)

//go:generate go run -C asm . -out ../kernel_amd64.s -stubs ../kernel_amd64.go -pkg kernel

// pathVariable names the environment variable that forces a path.
const pathVariable = "DREAMFLEET_KERNEL"

// kernels is one path: a body for each function that has more than one.
type kernels struct {
	name string

	// block computes C (m×n) = D + A·B for one block of k, with B in panels (see pack), and without D
	// where that is nil.
	block func(m, n, k int, a []float32, lda int, b, c []float32, ldc int, d []float32, ldd int)
	// direct is block for operands in the place where they lie.
	direct func(s *scratch, x *operands, m, n, k int, c []float32, ldc int, d []float32, ldd int)
	// pack lays op(B) (k×n) out in panels of 16 columns, each k×16, the last one padded with zeros.
	pack func(dst []float32, tB bool, k, n int, b []float32, ldb int)

	// gather and scatter are GatherRows and ScatterRows for the columns [lo, hi).
	gather  func(dst []float32, ldd int, idx []int32, rows, s int, w []float32, n, classes, lo, hi int)
	scatter func(dw []float32, n, classes int, idx []int32, rows, s int, dy []float32, ldy, lo, hi int)

	exp, sigmoid, tanh, silu, symlog, symexp, log, add func(dst, x []float32)

	siluBackward func(dx, x, dy []float32)
	axpy         func(dst []float32, alpha float32, x []float32)
	scale        func(dst []float32, alpha float32)
	dot          func(x, y []float32) float64

	rmsNormSiLU         func(y, x, scale []float32, eps float32) float32
	rmsNormSiLUBackward func(x, dscale, dy, scale []float32, inv float32)
	softmax             func(p, x []float32, rows, n int)
	logSoftmax          func(lp, x []float32, rows, n int)
	softmaxBackward     func(dx, p, dy []float32, rows, n int)
	gru                 func(out, h, reset, cand, update, r, c, u []float32)
	gruBackward         func(dh, dreset, dcand, dupdate, dout, h, cand, r, c, u []float32)
	laprop              func(p, m, v, g []float32, gscale, beta1, rest1, beta2, rest2, inv2, eps, rate float32)

	// peak does n rounds of perRound flops on registers alone; nil where there is no such loop.
	peak     func(n int)
	perRound int
}

var use, pathErr = choose(os.Getenv(pathVariable), supported())

// choose returns the named path, or the first of paths, the best one, for an empty name.
func choose(name string, paths []*kernels) (*kernels, error) {
	if name == "" {
		return paths[0], nil
	}
	var names []string
	for _, p := range paths {
		if p.name == name {
			return p, nil
		}
		names = append(names, p.name)
	}
	return paths[len(paths)-1], fmt.Errorf("kernel: %s=%q is not a path that this machine has; leave it unset or choose from: %s",
		pathVariable, name, strings.Join(names, ", "))
}

// Path names the path in use: avx512, avx2 or portable. The error says that DREAMFLEET_KERNEL asks
// for one that does not exist or that this processor lacks; the portable path is in use then.
func Path() (string, error) { return use.name, pathErr }
