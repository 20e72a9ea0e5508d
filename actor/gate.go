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
	// of a small run; two keep the bus busy meanwhile. As many are filled in each
	// flowTimeout in which none comes: two actors that ran free while the host of
	// their replay restarted sent two million steps in half a minute, in place of
	// all that it held, and then stood still until training had made up for them.
	leaveChunks = 2
)

// told is a flow message, when it came, and how many ticks it gives leave for
// if it is not one to hold.
type told struct {
	flow  protocol.Flow
	at    time.Time
	leave int
}

// gate lets the environments step as far as the replay gives leave. Its zero
// value lets all pass. It belongs to Run.
type gate struct {
	told  *told     // the newest message
	since time.Time // when leave was last given or refused
	left  int       // ticks of leave
}

// hear takes the newest message in.
func (g *gate) hear(t *told) {
	if t == g.told {
		return
	}
	g.told, g.since, g.left = t, t.at, 0
	if !t.flow.Hold {
		g.left = t.leave
	}
}

// wait returns for how long the environments have to stand still unless another
// message comes; not above 0: they step. A message is good for flowTimeout,
// after which the replay is taken to be away, and they go on by so many ticks.
func (g *gate) wait(now time.Time, leave int) time.Duration {
	if g.told == nil || g.left > 0 {
		return 0
	}
	wait := g.since.Add(flowTimeout).Sub(now)
	if wait <= 0 {
		g.since, g.left = now, leave
	}
	return wait
}
