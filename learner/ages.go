package learner

import (
	"math/bits"
	"sync"
)

// ages counts replayed sequences by the logarithm of their age, over the present
// interval and the one before, so that there are some right after a turn.
type ages struct {
	mu          sync.Mutex
	now, before [ageBuckets]uint64
}

// ageBuckets hold ages below 2^19 versions and, in the last, all above.
const ageBuckets = 20

func (a *ages) add(age uint64) {
	a.mu.Lock()
	a.now[min(bits.Len64(age), ageBuckets-1)]++
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
