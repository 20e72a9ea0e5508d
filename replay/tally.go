package replay

// tally counts things in numbered bins so that the k-th of all is found in
// O(log n): a Fenwick tree (Fenwick 1994). The number of bins is a power of
// two.
type tally struct {
	sums  []int32 // sums[i] covers the i&-i bins up to and including i-1; sums[0] is unused
	total int
}

func newTally(bins int) *tally { return &tally{sums: make([]int32, bins+1)} }

func (t *tally) bins() int { return len(t.sums) - 1 }

// add changes the count of a bin.
func (t *tally) add(bin int, delta int32) {
	if delta == 0 {
		return
	}
	t.total += int(delta)
	for i := bin + 1; i < len(t.sums); i += i & -i {
		t.sums[i] += delta
	}
}

// before is the number of things in the bins before one.
func (t *tally) before(bin int) int {
	sum := 0
	for i := bin; i > 0; i -= i & -i {
		sum += int(t.sums[i])
	}
	return sum
}

// find returns the bin of the k-th thing, 0 <= k < total, and how many things
// of the same bin come before it.
func (t *tally) find(k int) (bin, rest int) {
	for half := t.bins(); half > 0; half /= 2 {
		if next := bin + half; next < len(t.sums) && int(t.sums[next]) <= k {
			bin, k = next, k-int(t.sums[next])
		}
	}
	return bin, k
}
