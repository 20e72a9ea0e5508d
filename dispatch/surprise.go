package dispatch

import (
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
)

// surprise tells for each server of a stream how much more often than in calibration its
// load was above what the world model had expected of it one step before: of the last
// steps, the share above less the share below, less what that is in the mean. It says
// that a server is slower than the model takes it to be, that jobs come faster, or that
// loads are beyond what it has learnt.
//
// One step says little, since how much is served until the next job is mostly chance; but
// chance goes both ways, and what is wrong one way. Signs are counted and not sizes,
// for a job of enormous size must not outweigh all else. Each server is counted by itself,
// so that a slow one is not averaged away by those that do well. The job that arrives is
// left out: nobody can expect its size.
type surprise []float64

const (
	// patience is the weight of the newest step: some 64 count. A stream begins as if
	// all had been as in the mean, so that a few steps alone say nothing.
	patience = 1.0 / 64
	// asExpected is the difference of a load, in symlog, that is none: 2 per cent.
	asExpected = 0.02
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

// add takes in the side of a server's load.
func (s surprise) add(server int, side int8, mean float64) {
	s[server] += patience * (float64(side) - mean - s[server])
}

// over is the largest as a multiple of what is usual for its server; 0 where none is
// above 0.
func (s surprise) over(usual []float64) float64 {
	largest := 0.0
	for i, u := range usual {
		largest = max(largest, s[i]/u)
	}
	return largest
}
