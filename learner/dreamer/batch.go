package dreamer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Bits of a step's flags, as protocol has them.
const (
	flagFirst    = 1
	flagLast     = 4
	flagTerminal = 8
)

// batch is a replayed batch as the graph reads it: time-major, row t·B + b.
type batch struct {
	obs      []float32 // symlog of the observations
	raw      []float32
	reward   []float32
	live     []float32 // discount, or 0 where the return ends: the continuation's target
	last     []bool
	action   []int32
	sequence model.Sequences
	rollout  model.Rollout
}

func newBatch(c Config) *batch {
	m := c.Model
	t, b := c.BatchLength, c.BatchSize
	rows, imagined := t*b, c.ImagineLength*c.rollouts()
	return &batch{
		obs: make([]float32, rows*m.Obs), raw: make([]float32, rows*m.Obs),
		reward: make([]float32, rows), live: make([]float32, rows),
		last: make([]bool, rows), action: make([]int32, rows),
		sequence: model.Sequences{
			Start: model.NewStates(m, b), First: make([]bool, rows), PrevAction: make([]int32, rows),
			Draw: make([]float32, rows*m.DrawLen()),
		},
		rollout: model.Rollout{
			PolicyStart: make([]float32, b*m.PolicyState()), Mask: make([]bool, rows*m.Actions),
			Draw: make([]float32, imagined*m.DrawLen()), ActionDraw: make([]float32, imagined),
		},
	}
}

// load turns a batch to time-major order. The batch has the configured shape
// and finite values, or an error says what is wrong and nothing is trained.
func (d *batch) load(c Config, p *protocol.Batch) error {
	m := c.Model
	if p.Size != c.BatchSize || p.Length != c.BatchLength || p.ObsLen != m.Obs || p.Actions != m.Actions || p.ContextLen != m.ContextLen() {
		return fmt.Errorf("dreamer: batch of %d×%d steps with %d observations, %d actions and %d context values; want %d×%d, %d, %d, %d",
			p.Size, p.Length, p.ObsLen, p.Actions, p.ContextLen, c.BatchSize, c.BatchLength, m.Obs, m.Actions, m.ContextLen())
	}
	discount := float32(1 - 1/c.Horizon)
	g := m.PolicyState()
	for b := range p.Size {
		row := p.Context[b*p.ContextLen : (b+1)*p.ContextLen]
		previous, err := m.UnpackContext(row, d.sequence.Start.Rows(m, b, b+1), d.rollout.PolicyStart[b*g:(b+1)*g])
		if err != nil {
			return fmt.Errorf("dreamer: sequence %d: %w", b, err)
		}
		for t := range p.Length {
			from, to := b*p.Length+t, t*p.Size+b
			copy(d.raw[to*m.Obs:(to+1)*m.Obs], p.Obs[from*m.Obs:(from+1)*m.Obs])
			copy(d.rollout.Mask[to*m.Actions:(to+1)*m.Actions], p.Mask[from*m.Actions:(from+1)*m.Actions])
			if int(p.Action[from]) >= m.Actions {
				return fmt.Errorf("dreamer: action %d in a batch, of %d actions", p.Action[from], m.Actions)
			}
			if r := float64(p.Reward[from]); math.IsNaN(r) || math.IsInf(r, 0) {
				return fmt.Errorf("dreamer: reward %v in a batch", r)
			}
			flags := p.Flags[from]
			d.action[to] = int32(p.Action[from])
			d.reward[to] = p.Reward[from]
			d.last[to] = flags&flagLast != 0
			d.sequence.First[to] = flags&flagFirst != 0
			d.sequence.PrevAction[to] = previous
			previous = d.action[to]
			d.live[to] = discount
			if flags&flagTerminal != 0 {
				d.live[to] = 0
			}
		}
	}
	model.SymlogTo(d.obs, d.raw)
	return nil
}

// draw takes all random numbers of a step from one stream, in a fixed order.
// The latents of the rollouts from one state come from the same numbers.
func (d *batch) draw(c Config, r *rand.Rand) {
	m := c.Model
	m.Draws(d.sequence.Draw, r)
	row := m.DrawLen()
	for group := range slices.Chunk(d.rollout.Draw, c.ImagineGroup*row) {
		m.Draws(group[:row], r)
		for at := row; at < len(group); at += row {
			copy(group[at:], group[:row])
		}
	}
	model.Uniforms(d.rollout.ActionDraw, r)
}
