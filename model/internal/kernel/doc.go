// Package kernel holds the arithmetic that a training step is made of: float32 matrix products and
// the fused element-wise loops between them. It knows nothing of layers or of gradients' graphs;
// package model and the learner's operators call it with plain slices.
//
// Matrices are row-major; lda, ldb, ldc and ldx are the distances between rows, counted in values.
// A loop is documented by the loop itself.
//
//	kernel.Gemm(false, true, m, n, k, a, k, b, k, c, n, false) // C = A·Bᵀ
//
//	var w kernel.Packed // a weight matrix, packed once a step and shared by all threads
//	w.Pack(false, k, n, weights, n)
//	kernel.GemmPacked(rows, x, k, &w, y, n, false)
//	kernel.RMSNormSiLU(y, inv, y, scale, rows, n)
//
// # Paths
//
// Each function has up to three bodies: AVX-512, AVX2 with FMA, and portable Go. The best that the
// processor offers is chosen when the program starts; DREAMFLEET_KERNEL=avx512, avx2 or portable
// chooses by name, and Path tells which one is in use and whether that choice could be honoured. The
// assembly is written by the generator in asm, once for both vector widths.
//
// # Numbers
//
// Every element of a matrix product is one chain of operations in the order of k, cut into blocks by
// the size of k alone. It therefore does not depend on the element's place in the matrix, on m and
// n, on whether B was packed beforehand, or on how many threads share the work; AVX2 and AVX-512
// give the same bits. The portable path rounds products before adding them, where the others fuse.
//
// Element-wise functions treat every element alike wherever it stands in the slice. They use the same
// polynomials on all paths and err by about one unit in the last place (Exp, Log), two (Symlog,
// Symexp) or three (Sigmoid, Tanh, SiLU); Exp gives subnormal results, Sigmoid 0 for them. Sums over a row (RMSNormSiLU,
// Softmax and their gradients) are taken lane by lane, so that paths differ in the order of additions;
// each is within 2e-6 of the exact result, relative to the row's largest. NaN and infinity pass through
// every function as in its formula.
//
// # Memory and threads
//
// Nothing allocates in a steady state. Functions use the calling goroutine alone; a Pool shares
// rows among a fixed set of goroutines. Slices handed to this package escape to
// the heap, because bodies are called through a table: keep scratch space in a struct, not in a
// local array.
package kernel
