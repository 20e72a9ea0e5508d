package kernel

// GatherRows is the product of a one-hot matrix and W ((s·classes)×n, without gaps):
//
//	for r, j, i := range rows, s, n {
//		dst[r*ldd+i] += w[(j*classes+idx[r*s+j])*n+i]
//	}
//
// It panics where an index is outside [0, classes).
func GatherRows(dst []float32, ldd int, idx []int32, rows, s int, w []float32, n, classes int) {
	if rows == 0 || s == 0 || n == 0 {
		return
	}
	check(dst, rows, n, ldd)
	check(w, s*classes, n, n)
	checkIndices(idx[:rows*s], classes)
	use.gather(dst, ldd, idx, rows, s, w, n, classes, 0, n)
}

// ScatterRows is the product of a transposed one-hot matrix and dY, the gradient of GatherRows with
// respect to W:
//
//	for r, j, i := range rows, s, n {
//		dw[(j*classes+idx[r*s+j])*n+i] += dy[r*ldy+i]
//	}
//
// with additions in the order of r. It panics where an index is outside [0, classes).
func ScatterRows(dw []float32, n, classes int, idx []int32, rows, s int, dy []float32, ldy int) {
	if rows == 0 || s == 0 || n == 0 {
		return
	}
	check(dy, rows, n, ldy)
	check(dw, s*classes, n, n)
	checkIndices(idx[:rows*s], classes)
	use.scatter(dw, n, classes, idx, rows, s, dy, ldy, 0, n)
}

func checkIndices(idx []int32, classes int) {
	for _, v := range idx {
		if uint(v) >= uint(classes) {
			panic("kernel: class index out of range")
		}
	}
}

// AddBias is
//
//	for r, i := range rows, n {
//		dst[r*n+i] += bias[i]
//	}
func AddBias(dst, bias []float32, rows, n int) {
	for r := range rows {
		use.add(dst[r*n:][:n], bias[:n])
	}
}

// ColumnSums is
//
//	for r, i := range rows, n {
//		dst[i] += x[r*ldx+i]
//	}
//
// after clearing dst unless acc is set, with additions in the order of r.
func ColumnSums(dst, x []float32, ldx, rows, n int, acc bool) {
	if !acc {
		clear(dst[:n])
	}
	for r := range rows {
		use.add(dst[:n], x[r*ldx:][:n])
	}
}
