package learner

import "math"

// Schedule is the share of a learning rate, or of another weight, that applies
// after so many updates: it rises linearly from 0 to 1 over Warmup updates and
// then falls by half in HalfLife, down to a tenth. HalfLife 0 keeps it.
type Schedule struct{ Warmup, HalfLife int64 }

// lastShare is where a schedule stops falling.
const lastShare = 0.1

// At is the share after so many updates.
func (s Schedule) At(updates int64) float64 {
	switch {
	case updates < s.Warmup:
		return float64(updates) / float64(s.Warmup)
	case s.HalfLife == 0:
		return 1
	}
	return max(lastShare, math.Exp2(-float64(updates-s.Warmup)/float64(s.HalfLife)))
}
