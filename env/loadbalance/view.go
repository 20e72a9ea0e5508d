package loadbalance

import (
	"errors"
	"fmt"
	"math"
)

// View is how a configuration shows servers and jobs to an agent: an Env's of a
// simulator, or those that a dispatcher really has.
type View struct {
	cfg    Config
	reward rewardFunc
}

// NewView checks what cfg says of observations and rewards.
func NewView(cfg Config) (*View, error) {
	if cfg.Servers < 1 || cfg.Servers > MaxServers {
		return nil, fmt.Errorf("loadbalance: %d servers, want 1 to %d", cfg.Servers, MaxServers)
	}
	if !(cfg.RewardScale > 0) || math.IsInf(cfg.RewardScale, 1) {
		return nil, fmt.Errorf("loadbalance: reward scale is %g, want above 0", cfg.RewardScale)
	}
	if !(cfg.ObsHigh >= 0) {
		return nil, fmt.Errorf("loadbalance: cap of observations is %g, want above 0, or 0 for %g", cfg.ObsHigh, DefaultObsHigh)
	}
	if len(cfg.LoadScales) == 0 {
		return nil, errors.New("loadbalance: no load scales, want one or more, such as 100 and 5000")
	}
	for _, s := range cfg.LoadScales {
		if !(s > 0) || math.IsInf(s, 1) {
			return nil, fmt.Errorf("loadbalance: load scale is %g, want above 0", s)
		}
	}
	reward, err := newReward(cfg.Reward, cfg.TailStart)
	if err != nil {
		return nil, err
	}
	return &View{cfg: cfg, reward: reward}, nil
}

// Width is the number of values of an observation, RL²'s inputs not counted.
func (v *View) Width() int {
	n := len(v.cfg.LoadScales) * (v.cfg.Servers + 1)
	if v.cfg.ObserveMask {
		n += v.cfg.Servers
	}
	if v.cfg.ObserveRates {
		n += v.cfg.Servers
	}
	if v.cfg.ObserveMeasured {
		n += v.cfg.Servers
	}
	return n
}

// Observe writes the observation, Width values, of the loads of all servers and
// then the incoming job's size, as Sim.Observe has them; of which servers take
// jobs; of their rates; and of those that were measured, 0 where none was.
func (v *View) Observe(obs []float32, loads []float64, up []bool, rates, measured []float64) {
	k := 0
	for _, s := range v.cfg.LoadScales {
		for _, load := range loads {
			obs[k] = float32(load / s)
			k++
		}
	}
	if v.cfg.ObserveMask {
		for _, up := range up {
			obs[k] = 0
			if up {
				obs[k] = 1
			}
			k++
		}
	}
	if v.cfg.ObserveRates {
		for _, rate := range rates {
			obs[k] = float32(rate)
			k++
		}
	}
	if v.cfg.ObserveMeasured {
		for _, rate := range measured {
			obs[k] = float32(rate)
			k++
		}
	}
}

// Load is the mean over the scales of what a vector of an observation's shape has for a
// server's load.
func (v *View) Load(obs []float32, server int) float64 {
	var sum float64
	for s := range v.cfg.LoadScales {
		sum += float64(obs[s*(v.cfg.Servers+1)+server])
	}
	return sum / float64(len(v.cfg.LoadScales))
}

// Reward is what a step pays and the signal that the agent is shown of it, given
// both of Sim.Step's rewards and the size of the job that it assigned.
func (v *View) Reward(park, settled float64, size int64) (reward, signal float64) {
	reward = v.reward(park, settled, size) * v.cfg.RewardScale
	if v.cfg.HideRates {
		return reward, park * v.cfg.RewardScale
	}
	return reward, reward
}
