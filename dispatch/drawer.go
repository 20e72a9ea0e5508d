package dispatch

import "math/rand/v2"

// drawer takes an action from probabilities.
type drawer struct {
	greedy bool
	rng    *rand.Rand
}

func newDrawer(seed uint64, greedy bool) *drawer {
	return &drawer{greedy, rand.New(rand.NewPCG(seed, 0x64726177))}
}

// from returns the most probable action, or one that is drawn. It returns -1 where
// the probabilities are no numbers.
func (d *drawer) from(probs []float32) int {
	best, sum := 0, float32(0)
	for i, p := range probs {
		sum += p
		if p > probs[best] {
			best = i
		}
	}
	if !(sum > 0.5 && sum < 1.5) {
		return -1
	}
	if d.greedy {
		return best
	}
	u := d.rng.Float32() * sum
	for i, p := range probs {
		if u -= p; u < 0 && p > 0 {
			return i
		}
	}
	return best
}
