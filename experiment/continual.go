package experiment

import "math"

// Performance puts a score of which less is better on the scale where random play has 0 and a reference, trained on the
// task alone, 1. NaN where the reference is no better than random play, which leaves no scale.
func Performance(score, random, reference float64) float64 {
	if !(reference < random) {
		return math.NaN()
	}
	return (random - score) / (random - reference)
}

// LogPerformance is Performance of the logarithms of positive scores. Random play can have thirty times the
// reference's mean job completion time; then twice the reference's is a loss of 0.03 in Performance and of 0.2 here.
func LogPerformance(score, random, reference float64) float64 {
	return Performance(math.Log(score), math.Log(random), math.Log(reference))
}

// Forgetting of each task of a sequence (Wołczyk et al., Continual World, 2021): its performance right after it was
// trained, less that at the end. performance[i][k] is that on task i after k tasks were trained, k from 0 to the
// number of tasks. Below 0: later tasks helped. The last task's is 0.
func Forgetting(performance [][]float64) []float64 {
	forgotten := make([]float64, len(performance))
	for i, p := range performance {
		forgotten[i] = p[i+1] - p[len(p)-1]
	}
	return forgotten
}

// AreaUnder is the mean of a performance that is p[i] at x[i], ascending, and linear between: the area under the
// curve by the trapezoid rule, over the range of x. NaN for less than two points.
func AreaUnder(x, p []float64) float64 {
	if len(x) < 2 || !(x[len(x)-1] > x[0]) {
		return math.NaN()
	}
	var area float64
	for i := 1; i < len(x); i++ {
		area += (x[i] - x[i-1]) * (p[i] + p[i-1]) / 2
	}
	return area / (x[len(x)-1] - x[0])
}

// ForwardTransfer to a task (Wołczyk et al. 2021): how much of the area above the learning curve of training on the task
// alone is gained by training on it after others. Both are areas under the curve of the performance while the task
// is trained. NaN where the curve of the task alone leaves no area above it.
func ForwardTransfer(area, alone float64) float64 {
	if !(alone < 1) {
		return math.NaN()
	}
	return (area - alone) / (1 - alone)
}
