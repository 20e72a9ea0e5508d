package dispatch

import (
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// surprise tells for each server of a stream how much more often its load was above
// what the world model had expected of it one step before than below: shares of the
// last steps, from -1 to 1. It says that a server is slower than the model takes it to
// be, that jobs come faster, or that loads are beyond what it has learnt.
//
// One step says little, since how much is served until the next job is mostly chance; but
// chance goes both ways, and what is wrong one way. Signs are counted and not sizes,
// for a job of enormous size must not outweigh all else. Each server is counted by itself,
// so that a slow one is not averaged away by those that do well. The job that arrives is
// left out: nobody can expect its size.
type surprise []float64

const (
	// patience is the weight of the newest step: some 64 count. The shares begin at 0, so
	// that a few steps alone say nothing.
	patience = 1.0 / 64
	// asExpected is the difference of a load, in symlog, that is none: 2 per cent.
	asExpected = 0.02
)

// add takes in the excess of all values of an observation over what was expected. One
// that is no number counts for neither side.
func (s surprise) add(view *loadbalance.View, excess []float32) {
	for i := range s {
		sign := 0.0
		if x := view.Load(excess, i); x > asExpected {
			sign = 1
		} else if x < -asExpected {
			sign = -1
		}
		s[i] += patience * (sign - s[i])
	}
}

// over is the largest share as a multiple of what is usual for its server; 0 where
// none is above 0.
func (s surprise) over(usual []float64) float64 {
	largest := 0.0
	for i, u := range usual {
		largest = max(largest, s[i]/u)
	}
	return largest
}
