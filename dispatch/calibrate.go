package dispatch

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
)

// Policy is what a trained policy was trained on: the shape of its networks, and how
// it is shown which tasks.
type Policy struct {
	Model    model.Config
	Env      loadbalance.Config
	Tasks    *loadbalance.Tasks
	Episodes int  // of a trial
	Blind    bool // without RL²'s inputs
}

// Calibration tells how much a version's world model is surprised where it should
// not be: in some episodes that are drawn from the tasks it was trained on.
type Calibration struct {
	Version uint64 `json:"version"`
	// Mean is for each server how much more often its load was above what was expected
	// than below, a share of all steps; Usual is the median, over the episodes, of its
	// largest sum in an episode, at least minUsual.
	Mean, Usual []float64 `json:"-"`
	// Largest is the largest surprise in each episode, as a multiple of what is usual,
	// in rising order.
	Largest []float64 `json:"largest"`
}

// minUsual steps are nothing, whatever is usual.
const minUsual = 4

// Threshold is a quantile of the largest surprises: a share of 1-q of such episodes
// exceeds it. Without any it is infinite.
func (c *Calibration) Threshold(q float64) float64 {
	if len(c.Largest) == 0 || q == 0 {
		return math.Inf(1)
	}
	at := q * float64(len(c.Largest)-1)
	i := min(int(at), len(c.Largest)-1)
	j := min(i+1, len(c.Largest)-1)
	return c.Largest[i] + (at-float64(i))*(c.Largest[j]-c.Largest[i])
}

// calibrationSeed is that of the episodes; training draws others.
const calibrationSeed = 0x63616c69

// Calibrate plays so many episodes, all at once, with the parameters of a file.
// Parameters without the world model's prior and decoder calibrate to nothing.
func Calibrate(ctx context.Context, p Policy, version uint64, f *model.File, episodes int, greedy bool) (Calibration, error) {
	c := Calibration{Version: version}
	advisor, err := model.NewAdvisor(p.Model, episodes, f, calibrationSeed)
	if err != nil || !advisor.Predicts() {
		return c, err
	}
	trials := make([]*env.Trial, episodes)
	for i := range trials {
		e, err := loadbalance.New(p.Env)
		if err == nil {
			trials[i], err = env.NewTrial(e, p.Tasks, 1, calibrationSeed+uint64(i))
		}
		if err != nil {
			return c, fmt.Errorf("calibrate: %w", err)
		}
		trials[i].Blind = p.Blind
	}
	m := p.Model
	obs, flags, mask := make([]float32, episodes*m.Obs), make([]uint8, episodes), make([]bool, episodes*m.Actions)
	memory, probs, excess := make([]float32, episodes*m.ContextLen()), make([]float32, episodes*m.Actions), make([]float32, episodes*m.Obs)
	view, err := loadbalance.NewView(p.Env)
	if err != nil {
		return c, fmt.Errorf("calibrate: %w", err)
	}
	action, sides := make([]int, episodes), make([][]int8, episodes) // by step and server
	draw := newDrawer(calibrationSeed, greedy)
	for range p.Env.Jobs {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		for i, t := range trials {
			s, err := t.Next(action[i])
			if err != nil {
				return c, fmt.Errorf("calibrate: %w", err)
			}
			copy(obs[i*m.Obs:], s.Obs)
			copy(mask[i*m.Actions:], s.Mask)
			flags[i] = uint8(s.Flags)
		}
		if err := advisor.Step(episodes, obs, flags, mask, memory, probs, excess); err != nil {
			return c, fmt.Errorf("calibrate: %w", err)
		}
		for i := range trials {
			action[i] = draw.from(probs[i*m.Actions : (i+1)*m.Actions])
			m.SetAction(memory[i*m.ContextLen():(i+1)*m.ContextLen()], action[i])
			for k := range m.Actions {
				sides[i] = append(sides[i], side(view, excess[i*m.Obs:(i+1)*m.Obs], k))
			}
		}
	}
	c.Mean, c.Usual = make([]float64, m.Actions), make([]float64, m.Actions)
	largest := make([]surprise, episodes)
	of := make([]float64, episodes)
	for k := range m.Actions {
		sum := 0
		for i := range sides {
			for at := k; at < len(sides[i]); at += m.Actions {
				sum += int(sides[i][at])
			}
		}
		c.Mean[k] = float64(sum) / float64(episodes*p.Env.Jobs)
		for i := range sides {
			if k == 0 {
				largest[i] = make(surprise, m.Actions)
			}
			now := make(surprise, m.Actions)
			for at := k; at < len(sides[i]); at += m.Actions {
				now.add(k, sides[i][at], c.Mean[k], math.Inf(1))
				largest[i][k] = max(largest[i][k], now[k])
			}
			of[i] = largest[i][k]
		}
		slices.Sort(of)
		c.Usual[k] = max(of[episodes/2], minUsual)
	}
	for _, l := range largest {
		c.Largest = append(c.Largest, l.over(c.Usual))
	}
	slices.Sort(c.Largest)
	return c, nil
}
