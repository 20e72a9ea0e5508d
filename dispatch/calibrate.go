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
	// Usual is for each server the median, over the episodes, of its largest share in an
	// episode; at least minUsual.
	Usual []float64 `json:"usual"`
	// Largest is the largest surprise in each episode, as a multiple of what is usual,
	// in rising order.
	Largest []float64 `json:"largest"`
}

// minUsual is a share that is nothing, whatever is usual.
const minUsual = 0.1

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
	mean, largest, action := make([]surprise, episodes), make([]surprise, episodes), make([]int, episodes)
	for i := range mean {
		mean[i], largest[i] = make(surprise, m.Actions), make(surprise, m.Actions)
	}
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
			mean[i].add(view, excess[i*m.Obs:(i+1)*m.Obs])
			for k, x := range mean[i] {
				largest[i][k] = max(largest[i][k], x)
			}
		}
	}
	c.Usual = make([]float64, m.Actions)
	of := make([]float64, episodes)
	for k := range c.Usual {
		for i := range largest {
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
