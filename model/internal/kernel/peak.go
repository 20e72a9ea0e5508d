package kernel

import "sync/atomic"

// made counts the floating-point operations of all products.
var made atomic.Uint64

// Flops is the number of floating-point operations, two for each multiply-add, that all products of
// matrices have made since the process began. Sums of kernel rows and element-wise loops, which are
// bound by memory, are not counted.
func Flops() uint64 { return made.Load() }

// PeakFlops runs rounds of nothing but multiply-adds on registers and returns the number of
// floating-point operations made: the limit that a product's rate is measured against. On the
// portable path, which has no such loop, it returns 0.
func PeakFlops(rounds int) int {
	if use.peak == nil || rounds <= 0 {
		return 0
	}
	use.peak(rounds)
	return rounds * use.perRound
}
