package replay

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Mix is how the sequences of a batch are drawn: each by one of three samplers,
// chosen at random with these probabilities, which sum to 1. A sampler that has
// nothing to draw from leaves its draws to the others.
type Mix struct {
	Uniform   float64 // every start in the window of newest steps alike
	Recency   float64 // starts in the window, with a weight that halves every HalfLife steps of age
	Reservoir float64 // every start in the reservoir alike
	HalfLife  float64 // steps, at least 1 where Recency is above 0
}

func (m Mix) check(reservoir int) error {
	for _, f := range []struct {
		name  string
		value float64
	}{{"uniform", m.Uniform}, {"recency", m.Recency}, {"reservoir", m.Reservoir}} {
		if !(f.value >= 0 && f.value <= 1) {
			return fmt.Errorf("fraction of the %s sampler is %v: from 0 to 1", f.name, f.value)
		}
	}
	switch sum := m.Uniform + m.Recency + m.Reservoir; {
	case math.Abs(sum-1) > 1e-6:
		return fmt.Errorf("fractions of the samplers sum to %v: they must sum to 1", sum)
	case m.Recency > 0 && !(m.HalfLife >= 1 && m.HalfLife <= 1e15):
		return fmt.Errorf("half-life of the recency sampler is %v steps: from 1 to 1e15", m.HalfLife)
	case m.Reservoir > 0 && reservoir == 0:
		return fmt.Errorf("the reservoir sampler has a fraction of %v and no capacity: give the reservoir steps", m.Reservoir)
	}
	return nil
}

// draw picks one of window+reservoir sequence starts, of which there is at
// least one: whether it is one of the reservoir's, and its rank there or, in
// the window, its rank from the newest. stride is the number of steps from a
// start to the next.
func (m Mix) draw(r *rand.Rand, window, reservoir, stride int) (inReservoir bool, rank int) {
	u := r.Float64()
	if (u >= m.Uniform+m.Recency || window == 0) && reservoir > 0 {
		return true, int(r.Uint64N(uint64(reservoir)))
	}
	if u >= m.Uniform && u < m.Uniform+m.Recency {
		return false, recentRank(r.Float64(), window, float64(stride)/m.HalfLife)
	}
	return false, int(r.Uint64N(uint64(window)))
}

// recentRank maps u, even in [0,1), to a rank in [0,n) with probability
// proportional to 2^(-halvings*rank): the inverse of the truncated geometric
// distribution's cumulative function, (1-q^(rank+1)) / (1-q^n) with
// q = 2^-halvings. It is written with expm1 and log1p, since q is close to 1.
func recentRank(u float64, n int, halvings float64) int {
	decay := -halvings * math.Ln2 // ln q
	rank := math.Log1p(u*math.Expm1(decay*float64(n))) / decay
	return min(int(rank), n-1)
}
