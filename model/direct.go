package model

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Direct acts by an actor-critic in a fixed number of environments at once, all
// batched, with no graph and no world model. Until parameters are loaded it
// draws uniformly among the allowed actions.
//
// A Direct belongs to one goroutine.
type Direct struct {
	// Greedy takes the most probable action in place of drawing one.
	Greedy bool

	cfg    ActorCriticConfig
	rows   int
	nets   *actorCritic
	params *Params
	packs  []func()
	loaded bool
	pcg    *rand.PCG
	rng    *rand.Rand

	memory             *memoryCache // nil in the feed-forward form
	next               []float32    // states after the last step, rows × StateLen
	action             []int32      // of the last step, -1 before the first
	hidden             []*cache
	symlog             []float32
	logits, probs, mix []float32
}

// NewDirect makes a policy for rows environments whose draws come from seed.
func NewDirect(c ActorCriticConfig, rows int, seed uint64) (*Direct, error) {
	params, err := NewActorCriticParams(c)
	if err != nil {
		return nil, err
	}
	d := &Direct{
		cfg: c, rows: rows, nets: newActorCritic(c), params: params,
		next: make([]float32, rows*c.StateLen()), action: make([]int32, rows),
		symlog: make([]float32, rows*c.Obs),
		logits: make([]float32, rows*c.Actions), probs: make([]float32, rows*c.Actions), mix: make([]float32, rows*c.Actions),
	}
	actor := params.Module(Actor).Data
	d.packs = d.nets.actor.packs(&actor, false)
	for _, l := range d.nets.actor.hidden {
		d.hidden = append(d.hidden, newCache(rows, rows, l.out, false))
	}
	if c.Recurrent {
		memory := params.Module(Memory).Data
		d.memory = newMemoryCache(&c, rows, rows, false)
		d.packs = append(d.packs, d.nets.memory.packs(&memory, false)...)
	}
	d.pcg = rand.NewPCG(seed, 0xbb67ae8584caa73b)
	d.rng = rand.New(d.pcg)
	for r := range rows {
		d.action[r] = -1
	}
	return d, nil
}

// Load takes the acting parameters from a safetensors blob as Params.Blob
// writes it. On an error the parameters before stay.
func (d *Direct) Load(blob []byte) error {
	if err := d.params.loadActing(blob); err != nil {
		return err
	}
	for _, pack := range d.packs {
		pack()
	}
	d.loaded = true
	return nil
}

// Act takes one step in every row: obs is rows × Obs as the environment gives
// it, flags the steps' flags, mask the allowed actions (rows × Actions, or
// nil). It writes the chosen actions and the natural logarithms of their
// probabilities.
func (d *Direct) Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32) {
	c, n := &d.cfg, d.rows
	if g := c.StateLen(); g > 0 {
		for r, f := range flags {
			if f&First != 0 {
				clear(d.next[r*g : (r+1)*g])
				d.action[r] = -1
			}
		}
	}
	if d.loaded {
		d.think(obs)
	} else {
		clear(d.logits)
	}
	c.Dist().Probs(d.mix, d.probs, d.logits, mask)
	for r := range n {
		row := d.mix[r*c.Actions : (r+1)*c.Actions]
		if d.Greedy && d.loaded {
			action[r] = argmax(row)
		} else {
			action[r] = pick(row, d.rng.Float32(), 1, 0)
		}
		logProb[r] = float32(math.Log(float64(row[action[r]])))
	}
	copy(d.action, action)
}

// Probs are the probabilities of all actions in the last Act, rows × Actions.
// The next Act overwrites them.
func (d *Direct) Probs() []float32 { return d.mix }

// think leaves the logits of every row and advances the states.
func (d *Direct) think(obs []float32) {
	SymlogTo(d.symlog, obs)
	if m := d.memory; m != nil {
		copy(m.state, d.next)
		copy(m.action, d.action)
		d.nets.memory.sense(m, d.symlog, 0, d.rows)
		d.nets.memory.recur(m, d.next, 0, d.rows)
	}
	x, w := d.symlog, d.cfg.Obs
	for i, l := range d.nets.actor.hidden {
		h := d.hidden[i]
		l.start(0, h.pre, x, w)
		if i == 0 && d.memory != nil {
			l.dense(1, h.pre, d.next, d.cfg.MemoryUnits)
		}
		l.activate(h, 0, d.rows)
		x, w = h.y, l.out
	}
	d.nets.actor.out.start(0, d.logits, x, w)
}

// ContextLen is ActorCriticConfig.ContextLen.
func (d *Direct) ContextLen() int { return d.cfg.ContextLen() }

// Context writes the carry before the next Act, rows × ContextLen.
func (d *Direct) Context(dst []float32) {
	n, g := d.cfg.ContextLen(), d.cfg.StateLen()
	if n == 0 {
		return
	}
	for r := range d.rows {
		row := dst[r*n : (r+1)*n]
		copy(row, d.next[r*g:(r+1)*g])
		row[g] = float32(d.action[r] + 1)
	}
}

// UnpackContext reads one context row back. Values that no row can hold, which
// only damage or a different model could cause, are an error.
func (c ActorCriticConfig) UnpackContext(src, state []float32) (action int32, err error) {
	if len(src) != c.ContextLen() {
		return -1, fmt.Errorf("%w: context row of %d values, want %d", ErrParams, len(src), c.ContextLen())
	}
	if len(src) == 0 {
		return -1, nil
	}
	for i, v := range src {
		if v-v != 0 { // infinite or no number
			return -1, fmt.Errorf("%w: value %d of a context row is %v", ErrParams, i, v)
		}
	}
	a := src[copy(state, src[:c.MemoryUnits])]
	if a < 0 || a > float32(c.Actions) || a != float32(int32(a)) {
		return -1, fmt.Errorf("%w: previous action of a context row is %v, want 0 to %d", ErrParams, a, c.Actions)
	}
	return int32(a) - 1, nil
}

// Save appends everything that a policy carries from one Act to the next,
// parameters excepted.
func (d *Direct) Save(dst []byte) ([]byte, error) {
	context := make([]float32, d.rows*d.cfg.ContextLen())
	d.Context(context)
	return savedContext(dst, d.pcg, d.rows, context)
}

// Restore reads what Save wrote.
func (d *Direct) Restore(b []byte) error {
	g := d.cfg.StateLen()
	return restoreContext(b, d.pcg, d.rows, d.cfg.ContextLen(), func(r int, row []float32) (err error) {
		d.action[r], err = d.cfg.UnpackContext(row, d.next[r*g:(r+1)*g])
		return err
	})
}
