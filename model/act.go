package model

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Policy acts in a fixed number of environments at once: encoder, one RSSM
// step with the posterior, and the policy, all batched, with no graph. Until
// parameters are loaded it draws uniformly among the allowed actions.
//
// A Policy belongs to one goroutine.
type Policy struct {
	// Greedy takes the most probable action in place of drawing one. Latents
	// are sampled either way, as DreamerV3 does.
	Greedy bool

	cfg    Config
	rows   int
	nets   *networks
	params *Params
	packs  []func() // the weights of all layers
	loaded bool
	pcg    *rand.PCG
	rng    *rand.Rand

	encoder          []*cache
	core             *coreCache
	posterior        *cache
	logits, soft     []float32
	draw             []float32
	states           States
	policy           *policyCache
	action           []int32
	symlog           []float32
	probs, probsSoft []float32
}

// NewPolicy makes a policy for rows environments whose samples come from seed.
func NewPolicy(c Config, rows int, seed uint64) (*Policy, error) {
	params, err := NewParams(c)
	if err != nil {
		return nil, err
	}
	nets := newNetworks(c)
	p := &Policy{
		cfg: c, rows: rows, nets: nets, params: params,
		core: newCoreCache(&c, rows, rows, false), posterior: newCache(rows, rows, c.Hidden, false),
		logits: make([]float32, rows*c.LogitsLen()), soft: make([]float32, rows*c.StochLen()),
		draw: make([]float32, rows*c.DrawLen()), states: NewStates(c, rows),
		policy: newPolicyCache(&c, rows, rows, 0), action: make([]int32, rows),
		symlog: make([]float32, rows*c.Obs),
		probs:  make([]float32, rows*c.Actions), probsSoft: make([]float32, rows*c.Actions),
	}
	for _, l := range nets.encoder.hidden {
		p.encoder = append(p.encoder, newCache(rows, rows, l.out, false))
	}
	encoder, rssm, actor := params.Module(Encoder).Data, params.Module(RSSM).Data, params.Module(Actor).Data
	p.packs = slices.Concat(nets.encoder.packs(&encoder, false), nets.core.packs(&rssm, false),
		packs([]*layer{nets.post.hidden, nets.post.out}, &rssm, false), nets.actor.packs(&actor, false))
	p.pcg = rand.NewPCG(seed, 0x9e3779b97f4a7c15)
	p.rng = rand.New(p.pcg)
	p.Reset()
	return p, nil
}

// Reset returns every row to the state before a trial.
func (p *Policy) Reset() {
	for r := range p.rows {
		p.resetRow(r)
	}
}

func (p *Policy) resetRow(r int) {
	s := p.states.Rows(p.cfg, r, r+1)
	clear(s.Deter)
	s.Stoch.clear()
	g := p.cfg.PolicyState()
	clear(p.policy.next[r*g : (r+1)*g])
	p.action[r] = -1
}

// Load takes the acting parameters from a safetensors blob as Params.Blob
// writes it. On an error the parameters before stay.
func (p *Policy) Load(blob []byte) error {
	if err := p.params.loadActing(blob); err != nil {
		return err
	}
	p.Use(p.params)
	return nil
}

// loadActing takes the acting parameters from a blob, or none of them.
func (p *Params) loadActing(blob []byte) error {
	f, err := Decode(blob)
	if err != nil {
		return err
	}
	for _, t := range f.Tensors {
		for _, v := range t.Data {
			if v-v != 0 { // infinite or no number
				return fmt.Errorf("%w: tensor %s has the value %v", ErrParams, t.Name, v)
			}
		}
	}
	return Assign(p.ActingTensors(), f)
}

// Use takes the acting parameters from q, which has the same configuration.
func (p *Policy) Use(q *Params) {
	if q != p.params {
		copy(p.params.Data, q.Data)
	}
	for _, pack := range p.packs {
		pack()
	}
	p.loaded = true
}

// Blob appends the acting parameters as a safetensors file.
func (p *Params) Blob(dst []byte) ([]byte, error) { return p.BlobAs(dst, F32) }

// BlobAs is Blob with the values rounded to a type. Load takes any of them.
func (p *Params) BlobAs(dst []byte, dtype DType) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	f := File{Tensors: p.ActingTensors(), DType: dtype}
	if _, err := f.WriteTo(b); err != nil {
		return dst, err
	}
	return b.Bytes(), nil
}

// First is the bit of a step's flags that resets the recurrent state before
// the step: the first step of a trial.
const First = 1

// Act takes one step in every row: obs is rows × Obs as the environment gives
// it, flags the steps' flags, mask the allowed actions (rows × Actions, or
// nil). It writes the chosen actions and the natural logarithms of their
// probabilities.
func (p *Policy) Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32) {
	c, n := &p.cfg, p.rows
	for r, f := range flags {
		if f&First != 0 {
			p.resetRow(r)
		}
	}
	if p.loaded {
		p.think(obs)
	} else {
		clear(p.policy.logits)
	}
	c.Dist().Probs(p.probs, p.probsSoft, p.policy.logits, mask)
	for r := range n {
		row := p.probs[r*c.Actions : (r+1)*c.Actions]
		if p.Greedy && p.loaded {
			action[r] = argmax(row)
		} else {
			action[r] = pick(row, p.rng.Float32(), 1, 0)
		}
		logProb[r] = float32(math.Log(float64(row[action[r]])))
	}
	copy(p.action, action)
}

// Probs are the probabilities of all actions in the last Act, rows × Actions.
// The next Act overwrites them.
func (p *Policy) Probs() []float32 { return p.probs }

// think leaves the policy's logits of every row and advances the states.
func (p *Policy) think(obs []float32) {
	c, n, nets := &p.cfg, p.rows, p.nets
	SymlogTo(p.symlog, obs)
	x, w := p.symlog, c.Obs
	for i, l := range nets.encoder.hidden {
		e := p.encoder[i]
		l.start(0, e.pre, x, w)
		l.activate(e, 0, n)
		x, w = e.y, l.out
	}
	p.core.from.Copy(p.states)
	copy(p.core.action, p.action)
	nets.core.forward(p.core, 0, n)
	copy(p.states.Deter, p.core.next)

	nets.post.hidden.start(0, p.posterior.pre, p.states.Deter, c.Deter)
	nets.post.hidden.dense(1, p.posterior.pre, x, c.Units)
	nets.post.hidden.activate(p.posterior, 0, n)
	nets.post.out.start(0, p.logits, p.posterior.y, c.Hidden)
	c.Draws(p.draw, p.rng)
	c.sample(p.states.Stoch, p.soft, p.logits, p.draw)

	p.policy.from = p.states
	copy(p.policy.state, p.policy.next)
	nets.actor.recur(c, p.policy, 0, n)
	nets.actor.decide(c, p.policy, 0, n)
}

// Draws fills dst with the random numbers that sampling latents takes:
// uniform in [0, 1), or normal for a Gaussian.
func (c Config) Draws(dst []float32, r *rand.Rand) {
	if c.Gaussian {
		for i := range dst {
			dst[i] = float32(r.NormFloat64())
		}
		return
	}
	Uniforms(dst, r)
}

// Uniforms fills dst with numbers in [0, 1).
func Uniforms(dst []float32, r *rand.Rand) {
	for i := range dst {
		dst[i] = r.Float32()
	}
}

func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

// ContextLen is Config.ContextLen.
func (p *Policy) ContextLen() int { return p.cfg.ContextLen() }

// Context writes the carry before the next Act, rows × ContextLen.
func (p *Policy) Context(dst []float32) {
	n := p.cfg.ContextLen()
	g := p.cfg.PolicyState()
	for r := range p.rows {
		p.cfg.PackContext(dst[r*n:(r+1)*n], p.states.Rows(p.cfg, r, r+1), p.policy.next[r*g:(r+1)*g], p.action[r])
	}
}

// PackContext writes one context row.
func (c Config) PackContext(dst []float32, s States, policy []float32, action int32) {
	at := copy(dst, s.Deter)
	if c.Gaussian {
		at += copy(dst[at:], s.Stoch.Value)
	} else {
		for _, k := range s.Stoch.Index {
			dst[at] = float32(k + 1)
			at++
		}
	}
	at += copy(dst[at:], policy)
	dst[at] = float32(action + 1)
}

// UnpackContext reads one context row back. Values that no row can hold, which
// only damage or a different model could cause, are an error.
func (c Config) UnpackContext(src []float32, s States, policy []float32) (action int32, err error) {
	if len(src) != c.ContextLen() {
		return -1, fmt.Errorf("%w: context row of %d values, want %d", ErrParams, len(src), c.ContextLen())
	}
	for i, v := range src {
		if v != v || v > math.MaxFloat32 || v < -math.MaxFloat32 {
			return -1, fmt.Errorf("%w: value %d of a context row is %v", ErrParams, i, v)
		}
	}
	at := copy(s.Deter, src)
	if c.Gaussian {
		at += copy(s.Stoch.Value, src[at:])
	} else {
		for i := range s.Stoch.Index {
			k := src[at]
			if k < 0 || k > float32(c.Classes) || k != float32(int32(k)) {
				return -1, fmt.Errorf("%w: latent %d of a context row is %v, want 0 to %d", ErrParams, i, k, c.Classes)
			}
			s.Stoch.Index[i] = int32(k) - 1
			at++
		}
		empty := 0
		for _, k := range s.Stoch.Index {
			if k < 0 {
				empty++
			}
		}
		if empty != 0 && empty != c.Stoch {
			return -1, fmt.Errorf("%w: a context row has %d of %d latents empty", ErrParams, empty, c.Stoch)
		}
	}
	at += copy(policy, src[at:at+c.PolicyState()])
	a := src[at]
	if a < 0 || a > float32(c.Actions) || a != float32(int32(a)) {
		return -1, fmt.Errorf("%w: previous action of a context row is %v, want 0 to %d", ErrParams, a, c.Actions)
	}
	return int32(a) - 1, nil
}

// Save appends everything that a policy carries from one Act to the next,
// parameters excepted.
func (p *Policy) Save(dst []byte) ([]byte, error) {
	context := make([]float32, p.rows*p.cfg.ContextLen())
	p.Context(context)
	return savedContext(dst, p.pcg, p.rows, context)
}

// Restore reads what Save wrote.
func (p *Policy) Restore(b []byte) error {
	g := p.cfg.PolicyState()
	return restoreContext(b, p.pcg, p.rows, p.cfg.ContextLen(), func(r int, row []float32) (err error) {
		p.action[r], err = p.cfg.UnpackContext(row, p.states.Rows(p.cfg, r, r+1), p.policy.next[r*g:(r+1)*g])
		return err
	})
}

// savedContext appends context rows and a random stream as a safetensors file.
func savedContext(dst []byte, pcg *rand.PCG, rows int, context []float32) ([]byte, error) {
	rng, err := pcg.MarshalBinary()
	if err != nil {
		return dst, err
	}
	b := bytes.NewBuffer(dst)
	f := File{
		Tensors:  []Tensor{{Name: "context", Shape: []int{rows, len(context) / rows}, Data: context}},
		Metadata: map[string]string{"rng": fmt.Sprintf("%x", rng)},
	}
	if _, err := f.WriteTo(b); err != nil {
		return dst, err
	}
	return b.Bytes(), nil
}

// restoreContext reads what savedContext wrote and hands each row of width n to
// unpack.
func restoreContext(b []byte, pcg *rand.PCG, rows, n int, unpack func(r int, row []float32) error) error {
	f, err := Decode(b)
	if err != nil {
		return err
	}
	t, ok := f.ByName()["context"]
	if !ok || !sameShape(t.Shape, []int{rows, n}) {
		return fmt.Errorf("%w: saved policy state has shape %v, want [%d %d]", ErrParams, t.Shape, rows, n)
	}
	rng, err := hex.DecodeString(f.Metadata["rng"])
	if err == nil {
		err = pcg.UnmarshalBinary(rng)
	}
	if err != nil {
		return fmt.Errorf("%w: random stream: %w", ErrParams, err)
	}
	for r := range rows {
		if err := unpack(r, t.Data[r*n:(r+1)*n]); err != nil {
			return err
		}
	}
	return nil
}
