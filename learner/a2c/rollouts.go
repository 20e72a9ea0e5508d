package a2c

import (
	"fmt"
	"math"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// rollouts is a batch as the graph reads it: time-major, row t·B + b.
type rollouts struct {
	obs    []float32 // symlog of the observations
	raw    []float32
	reward []float32
	live   []float32 // discount, or 0 where the return ends
	last   []bool
	weight []float32 // of a step in the losses: 1, or 0 where it has no action or no return
	count  float32   // sum of weight
	action []int32
	mask   []bool
	memory model.Recurrence
}

func newRollouts(c Config) *rollouts {
	m, b := c.Model, c.BatchSize
	rows := c.BatchLength * b
	return &rollouts{
		obs: make([]float32, rows*m.Obs), raw: make([]float32, rows*m.Obs),
		reward: make([]float32, rows), live: make([]float32, rows), last: make([]bool, rows),
		weight: make([]float32, rows), action: make([]int32, rows), mask: make([]bool, rows*m.Actions),
		memory: model.Recurrence{Start: make([]float32, b*m.StateLen()), First: make([]bool, rows), PrevAction: make([]int32, rows)},
	}
}

// load turns a batch to time-major order. The batch has the configured shape
// and finite values, or an error says what is wrong and nothing is trained.
func (d *rollouts) load(c Config, p *protocol.Batch) error {
	m := c.Model
	if p.Size != c.BatchSize || p.Length != c.BatchLength || p.ObsLen != m.Obs || p.Actions != m.Actions || p.ContextLen != m.ContextLen() {
		return fmt.Errorf("a2c: batch of %d×%d steps with %d observations, %d actions and %d context values; want %d×%d, %d, %d, %d",
			p.Size, p.Length, p.ObsLen, p.Actions, p.ContextLen, c.BatchSize, c.BatchLength, m.Obs, m.Actions, m.ContextLen())
	}
	discount := float32(1 - 1/c.Horizon)
	g := m.StateLen()
	d.count = 0
	for b := range p.Size {
		row := p.Context[b*p.ContextLen : (b+1)*p.ContextLen]
		previous, err := m.UnpackContext(row, d.memory.Start[b*g:(b+1)*g])
		if err != nil {
			return fmt.Errorf("a2c: rollout %d: %w", b, err)
		}
		for t := range p.Length {
			from, to := b*p.Length+t, t*p.Size+b
			copy(d.raw[to*m.Obs:(to+1)*m.Obs], p.Obs[from*m.Obs:(from+1)*m.Obs])
			copy(d.mask[to*m.Actions:(to+1)*m.Actions], p.Mask[from*m.Actions:(from+1)*m.Actions])
			if int(p.Action[from]) >= m.Actions {
				return fmt.Errorf("a2c: action %d in a batch, of %d actions", p.Action[from], m.Actions)
			}
			if r := float64(p.Reward[from]); math.IsNaN(r) || math.IsInf(r, 0) {
				return fmt.Errorf("a2c: reward %v in a batch", r)
			}
			flags := p.Flags[from]
			d.action[to] = int32(p.Action[from])
			d.reward[to] = p.Reward[from]
			d.last[to] = flags&protocol.FlagLast != 0
			d.memory.First[to] = flags&protocol.FlagFirst != 0
			d.memory.PrevAction[to] = previous
			previous = d.action[to]
			d.live[to], d.weight[to] = discount, 1
			if flags&protocol.FlagTerminal != 0 {
				d.live[to] = 0
			}
			if d.last[to] || t == p.Length-1 {
				d.weight[to] = 0
			}
			d.count += d.weight[to]
		}
	}
	d.count = max(d.count, 1)
	model.SymlogTo(d.obs, d.raw)
	return nil
}
