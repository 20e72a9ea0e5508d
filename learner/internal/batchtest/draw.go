// Package batchtest draws batches for the tests of what learns from them.
package batchtest

import (
	"math/rand/v2"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// New is a batch of the given shape without flags and contexts: its observations and rewards are normal with
// deviations of 3 and 2, each action is one that its mask allows, and of the others the mask allows three in four.
func New(r *rand.Rand, size, length, obs, actions, contextLen int) *protocol.Batch {
	p := &protocol.Batch{}
	p.Resize(size, length, obs, actions, contextLen)
	clear(p.Flags)
	for i := range p.Obs {
		p.Obs[i] = float32(3 * r.NormFloat64())
	}
	for i := range p.Action {
		p.Action[i] = uint16(r.IntN(actions))
		p.Reward[i] = float32(2 * r.NormFloat64())
		for j := range actions {
			p.Mask[i*actions+j] = j == int(p.Action[i]) || r.IntN(4) > 0
		}
	}
	return p
}
