package dispatch

// refer is the reference's choice, among the servers that are up: of LEFT the one
// of the least (load+size)/rate, else that of the least load. Ties go to the first.
func refer(rule string, loads []float64, size float64, up []bool, rate func(server int) float64) int {
	best, lowest := -1, 0.0
	for i, load := range loads {
		if !up[i] {
			continue
		}
		cost := load
		if rule == RefLEFT {
			cost = (load + size) / rate(i)
		}
		if best < 0 || cost < lowest {
			best, lowest = i, cost
		}
	}
	return best
}
