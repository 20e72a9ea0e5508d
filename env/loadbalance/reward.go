package loadbalance

import (
	"fmt"
	"math"
	"strings"
)

// Rewards by name. All are at most 0, in the simulator's time units unless said
// otherwise, and T is the time in system of the job just assigned, as Sim.Step
// settles it.
const (
	// Settled is -T: Park's return with immediate credit. By default its mean
	// is -868 under LEFT.
	Settled = "settled"
	// Park is Park's own: minus the integral of the number of jobs in the system.
	Park = "park"
	// Slowdown is -T over the job's size, which is its service time at unit rate:
	// the mean slowdown, without a unit, -4.2 under LEFT, so it wants a larger scale.
	Slowdown = "slowdown"
	// Tail is -(T + max(0, T-q)/(1-a)) with a = 0.95 and q = Config.TailStart:
	// mean plus conditional value at risk of the slowest 1-a of the jobs, up to
	// a constant, where q is the a-quantile of T (Rockafellar and Uryasev,
	// Optimization of Conditional Value-at-Risk, 2000, eq. 4).
	Tail = "tail"
)

// DefaultTailStart is near the 95th percentile of the time in system under LEFT
// on Park's default workload: 2844 on seeds 1000-1199, where the median is 475.
const DefaultTailStart = 2800

const tailShare = 0.05

type rewardFunc func(park, settled float64, size int64) float64

func newReward(name string, tailStart float64) (rewardFunc, error) {
	switch name {
	case Settled:
		return func(_, settled float64, _ int64) float64 { return settled }, nil
	case Park:
		return func(park, _ float64, _ int64) float64 { return park }, nil
	case Slowdown:
		return func(_, settled float64, size int64) float64 { return settled / float64(max(size, 1)) }, nil
	case Tail:
		if !(tailStart >= 0) || math.IsInf(tailStart, 1) {
			return nil, fmt.Errorf("loadbalance: tail start is %g, want 0 or above", tailStart)
		}
		return func(_, settled float64, _ int64) float64 {
			return settled + min(0, settled+tailStart)/tailShare
		}, nil
	}
	return nil, fmt.Errorf("loadbalance: reward is %q, want one of %s", name,
		strings.Join([]string{Settled, Park, Slowdown, Tail}, ", "))
}
