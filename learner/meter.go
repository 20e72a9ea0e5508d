package learner

import "math"

// Mean is a running mean, kept as it was summed so that one carried through a
// checkpoint ends in the same bits.
type Mean struct {
	Sum   float64 `json:"sum"`
	Count int64   `json:"count"`
}

// meter averages named values over a log interval.
type meter map[string]Mean

// add takes in a value; those that are not finite are counted elsewhere.
func (m meter) add(name string, value float64) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	mean := m[name]
	m[name] = Mean{mean.Sum + value, mean.Count + 1}
}

// flush returns the means and starts a new interval.
func (m meter) flush() map[string]float64 {
	values := make(map[string]float64, len(m)+8)
	for name, mean := range m {
		values[name] = mean.Sum / float64(mean.Count)
	}
	clear(m)
	return values
}
