package learner

import (
	"math/bits"
	"sync"
)

// ages counts replayed sequences by the logarithm of their age, over the present
// interval and the one before, so that there are some right after a turn, and over
// the life of the process.
type ages struct {
	mu          sync.Mutex
	now, before [ageBuckets]uint64
	all         [ageBuckets]uint64
	sum         uint64 // of all ages
}

// ageBuckets hold ages below 2^19 versions and, in the last, all above.
const ageBuckets = 20

func (a *ages) add(age uint64) {
	a.mu.Lock()
	bucket := min(bits.Len64(age), ageBuckets-1)
	a.now[bucket]++
	a.all[bucket]++
	a.sum += age
	a.mu.Unlock()
}

// turn begins an interval.
func (a *ages) turn() {
	a.mu.Lock()
	a.before, a.now = a.now, [ageBuckets]uint64{}
	a.mu.Unlock()
}

// counts are both intervals' together, up to the last bucket that is not empty.
func (a *ages) counts() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var sum []uint64
	last := 0
	for i := range a.now {
		n := a.now[i] + a.before[i]
		sum = append(sum, n)
		if n > 0 {
			last = i + 1
		}
	}
	return sum[:last]
}

// total is all that was ever added, and the sum of it.
func (a *ages) total() (counts []uint64, sum uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append(counts, a.all[:]...), a.sum
}
