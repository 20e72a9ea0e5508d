package dispatch

import "math"

// smoothing is the weight of the newest value in a running mean: some thirty values
// count.
const smoothing = 1.0 / 32

// smoothed is a running mean. It tells nothing before it has seen enough.
type smoothed struct {
	mean float64
	n    int
}

const smoothedAfter = 16

func (s *smoothed) add(x float64) {
	if math.IsNaN(x) {
		return
	}
	s.n++
	s.mean += max(smoothing, 1/float64(s.n)) * (x - s.mean)
}

// value is the mean, or 0 while it is of too few values.
func (s *smoothed) value() float64 {
	if s.n < smoothedAfter {
		return 0
	}
	return s.mean
}
