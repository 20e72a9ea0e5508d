package dreamer

// leaveOneOut subtracts from every value the mean of the others of its group,
// a baseline for rollouts from the same state that met the same chance (Mao et
// al. 2019, arXiv 1807.02264: what an input-driven environment's inputs do to the return is
// noise to the policy's gradient), and returns the sums of squares before and
// after.
func leaveOneOut(x []float32, group int) (before, after float64) {
	others := 1 / float32(group-1)
	for ; len(x) > 0; x = x[group:] {
		var sum float32
		for _, v := range x[:group] {
			sum += v
			before += float64(v) * float64(v)
		}
		for i, v := range x[:group] {
			x[i] = v - (sum-v)*others
			after += float64(x[i]) * float64(x[i])
		}
	}
	return before, after
}

func mean(x []float32) float32 {
	var sum float32
	for _, v := range x {
		sum += v
	}
	return sum / float32(len(x))
}
