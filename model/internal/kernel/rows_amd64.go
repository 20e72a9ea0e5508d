package kernel

func gatherAVX2(dst []float32, ldd int, idx []int32, rows, s int, w []float32, n, classes, lo, hi int) {
	for ; lo+64 <= hi; lo += 64 {
		gather64AVX2(&dst[lo], ldd, &idx[0], rows, s, &w[lo], n, classes)
	}
	for ; lo+16 <= hi; lo += 16 {
		gather16AVX2(&dst[lo], ldd, &idx[0], rows, s, &w[lo], n, classes)
	}
	gatherPortable(dst, ldd, idx, rows, s, w, n, classes, lo, hi)
}

func scatterAVX2(dw []float32, n, classes int, idx []int32, rows, s int, dy []float32, ldy, lo, hi int) {
	for ; lo+64 <= hi; lo += 64 {
		scatter64AVX2(&dw[lo], n, classes, &idx[0], rows, s, &dy[lo], ldy)
	}
	for ; lo+16 <= hi; lo += 16 {
		scatter16AVX2(&dw[lo], n, classes, &idx[0], rows, s, &dy[lo], ldy)
	}
	scatterPortable(dw, n, classes, idx, rows, s, dy, ldy, lo, hi)
}

func gatherAVX512(dst []float32, ldd int, idx []int32, rows, s int, w []float32, n, classes, lo, hi int) {
	for ; lo+128 <= hi; lo += 128 {
		gather128AVX512(&dst[lo], ldd, &idx[0], rows, s, &w[lo], n, classes)
	}
	for ; lo+64 <= hi; lo += 64 {
		gather64AVX512(&dst[lo], ldd, &idx[0], rows, s, &w[lo], n, classes)
	}
	for ; lo+16 <= hi; lo += 16 {
		gather16AVX512(&dst[lo], ldd, &idx[0], rows, s, &w[lo], n, classes)
	}
	gatherPortable(dst, ldd, idx, rows, s, w, n, classes, lo, hi)
}

func scatterAVX512(dw []float32, n, classes int, idx []int32, rows, s int, dy []float32, ldy, lo, hi int) {
	for ; lo+64 <= hi; lo += 64 {
		scatter64AVX512(&dw[lo], n, classes, &idx[0], rows, s, &dy[lo], ldy)
	}
	for ; lo+16 <= hi; lo += 16 {
		scatter16AVX512(&dw[lo], n, classes, &idx[0], rows, s, &dy[lo], ldy)
	}
	scatterPortable(dw, n, classes, idx, rows, s, dy, ldy, lo, hi)
}
