package actor

import (
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

const (
	// flowTimeout is how long a flow message holds: twenty times the interval at
	// which the replay repeats it.
	flowTimeout = 5 * time.Second
	// leaveChunks is how many chunks of each stream one flow message gives leave
	// to fill. Environments make thousands of steps in the milliseconds that a
	// message to hold takes, which without a bound is more than the whole prefill
	// of a small run; two keep the bus busy meanwhile.
	leaveChunks = 2
)

// told is a flow message and when it came.
type told struct {
	flow protocol.Flow
	at   time.Time
}

// gate lets the environments step as far as the replay gives leave. Its zero
// value lets all pass. It belongs to Run.
type gate struct {
	told *told // the newest message
	left int   // ticks that it still allows
}

// hear takes the newest message in, which allows so many ticks if it is new.
func (g *gate) hear(t *told, ticks int) {
	if t != g.told {
		g.told, g.left = t, ticks
	}
}

// wait returns for how long the environments have to stand still unless another
// message comes; not above 0: they step. A message is good for flowTimeout,
// after which the replay is taken to be away.
func (g *gate) wait(now time.Time) time.Duration {
	if g.told == nil || !g.told.flow.Hold && g.left > 0 {
		return 0
	}
	return g.told.at.Add(flowTimeout).Sub(now)
}
