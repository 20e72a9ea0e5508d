package dispatch

import (
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// surprise tells for each server of a stream how many more of the last steps than is usual
// had its load above what the world model had expected one step before. It is Page's
// cumulative sum of the sides (Continuous inspection schemes, Biometrika 1954): each step
// adds 1 where the load was above and takes 1 where it was below, less what that is in
// the mean and less an allowance, and the sum is never below 0. It says that a server is
// slower than the model takes it to be, that jobs come faster, or that loads are beyond
// what it has learnt.
//
// One step says little, since how much is served until the next job is mostly chance; but
// chance goes both ways, and what is wrong one way. Signs are counted and not sizes,
// for a job of enormous size must not outweigh all else. Each server is counted by itself,
// so that a slow one is not averaged away by those that do well. The job that arrives is
// left out: nobody can expect its size.
type surprise []float64

const (
	// allowance is how one-sided steps may be for ever.
	allowance = 0.4
	// asExpected is the difference of a load, in symlog, that is none: 2 per cent.
	asExpected = 0.02
	// remembered is the multiple of the limit beyond which a sum does not grow, so that it
	// is back soon after what made it has passed.
	remembered = 1.5
)

// side is 1 where a server's load was above what was expected, -1 where it was below, and 0
// where it was neither, or is no number.
func side(view *loadbalance.View, excess []float32, server int) int8 {
	switch x := view.Load(excess, server); {
	case x > asExpected:
		return 1
	case x < -asExpected:
		return -1
	}
	return 0
}

// add takes in the side of a server's load. The sum grows to most.
func (s surprise) add(server int, side int8, mean, most float64) {
	s[server] = min(max(s[server]+float64(side)-mean-allowance, 0), most)
}

// over is the largest as a multiple of what is usual for its server.
func (s surprise) over(usual []float64) float64 {
	largest := 0.0
	for i, u := range usual {
		largest = max(largest, s[i]/u)
	}
	return largest
}
