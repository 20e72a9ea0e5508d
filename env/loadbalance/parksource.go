package loadbalance

import "math"

// Park's defaults (park/param.py): mean time between arrivals, and the shape
// and scale of the Pareto distribution of job sizes.
const (
	DefaultInterval = 55.0
	DefaultShape    = 1.5
	DefaultScale    = 100.0
)

// ParkSource draws Park's own jobs, bit for bit: exponential gaps and Pareto
// sizes, both truncated to integers, from numpy's legacy random stream.
// It never ends. Going on after an episode gives the jobs that Park's next
// reset would, since Park reseeds only when asked to.
type ParkSource struct {
	interval, shape, scale float64
	rng                    mt19937
}

// NewParkSource returns the jobs that Park generates after env.seed(seed).
// interval is the mean time between arrivals; a size is
// int((Pareto(shape)+1)*scale), so scale is the smallest size.
func NewParkSource(seed uint32, interval, shape, scale float64) *ParkSource {
	s := new(ParkSource)
	s.reset(seed, interval, shape, scale)
	return s
}

func (s *ParkSource) reset(seed uint32, interval, shape, scale float64) {
	s.interval, s.shape, s.scale = interval, shape, scale
	s.rng.seed(seed)
}

// Next never fails: a size or gap that is no integer within bounds comes out
// above MaxSize or MaxGap, which the simulator refuses.
func (s *ParkSource) Next() (Job, error) {
	// The size is drawn before the gap, and numpy's pareto subtracts the 1
	// that Park adds again: both roundings count.
	pareto := math.Exp(s.rng.exponential()/s.shape) - 1
	size := (pareto + 1) * s.scale
	gap := s.interval * s.rng.exponential()
	return Job{Gap: truncate(gap, MaxGap+1), Size: truncate(size, MaxSize+1)}, nil
}

// truncate is int(v), at most limit (also for NaN and infinities).
func truncate(v float64, limit int64) int64 {
	if v < float64(limit) {
		return int64(v)
	}
	return limit
}
