package actor

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// stream is one environment and the chunk being assembled from its steps.
type stream struct {
	trial *env.Trial
	env   uint32
	seq   uint64 // of the next chunk to begin

	action  int      // chosen at the newest step
	running bool     // the newest step was not a trial's last
	taken   []uint16 // actions since the trial's first step, to play it again

	chunk  *protocol.Chunk // nil: the next step begins one
	mask   []uint8         // the chunk's mask in bits, [ChunkLength,MaskLen(A)]
	masked bool            // mask forbids something
}

// rollout is the core of an actor: the streams and their policy.
type rollout struct {
	cfg     Config
	spec    env.Spec
	policy  Policy
	streams []stream

	version uint64 // of the parameters that act
	totals  totals

	obs     []float32 // [n,D]
	flags   []uint8   // [n]
	mask    []bool    // [n,A]
	reward  []float32 // [n]
	action  []int32   // [n]
	logProb []float32 // [n]
	context []float32 // [n,C]

	spare func() *protocol.Chunk // gives a chunk to fill, or nil
}

// totals count what happened since the first step, resumed parts included.
type totals struct {
	Steps, Episodes, Chunks uint64
}

func newRollout(cfg Config, trials []*env.Trial, policy Policy) (*rollout, error) {
	n := len(trials)
	if n == 0 {
		return nil, errors.New("an actor needs at least one environment")
	}
	spec, c := trials[0].Spec(), policy.ContextLen()
	r := &rollout{
		cfg: cfg, spec: spec, policy: policy, streams: make([]stream, n),
		obs: make([]float32, n*spec.Obs), flags: make([]uint8, n), mask: make([]bool, n*spec.Actions),
		reward: make([]float32, n), action: make([]int32, n), logProb: make([]float32, n),
		context: make([]float32, n*c),
		spare:   func() *protocol.Chunk { return nil },
	}
	for i, trial := range trials {
		if trial.Spec() != spec {
			return nil, fmt.Errorf("environment %d has shape %+v, the first has %+v", i, trial.Spec(), spec)
		}
		mask := make([]uint8, cfg.ChunkLength*protocol.MaskLen(spec.Actions))
		r.streams[i] = stream{trial: trial, env: uint32(i), mask: mask}
	}
	return r, nil
}

// tick takes one step in every stream and hands complete chunks, which then
// belong to emit, over in the order of streams.
func (r *rollout) tick(emit func(*protocol.Chunk)) error {
	contexts := false
	for i := range r.streams {
		s := &r.streams[i]
		step, err := s.trial.Next(s.action)
		if err != nil {
			return fmt.Errorf("environment %d: %w", i, err)
		}
		copy(r.obs[i*r.spec.Obs:], step.Obs)
		copy(r.mask[i*r.spec.Actions:], step.Mask)
		r.flags[i], r.reward[i] = uint8(step.Flags), step.Reward
		contexts = contexts || s.wantsContext(r.cfg.Stride)
	}
	see, wantsContext := false, false
	if r.cfg.Viewer != nil {
		see, wantsContext = r.cfg.Viewer.Wants()
	}
	if contexts || wantsContext {
		r.policy.Context(r.context)
	}
	r.policy.Act(r.obs, r.flags, r.mask, r.action, r.logProb)
	if see {
		r.show(wantsContext)
	}
	for i := range r.streams {
		if err := r.take(i); err != nil {
			return err
		}
		if s := &r.streams[i]; s.chunk.Steps == r.cfg.ChunkLength {
			emit(r.finish(s))
		}
	}
	return nil
}

// show gives the viewer the first environment's step.
func (r *rollout) show(withContext bool) {
	var context []float32
	if withContext {
		context = r.context[:r.policy.ContextLen()]
	}
	r.cfg.Viewer.See(r.obs[:r.spec.Obs], r.flags[0], int(r.action[0]), r.version, context)
}

func (s *stream) wantsContext(stride int) bool { return s.chunk == nil || s.chunk.Steps%stride == 0 }

// between reports whether the next tick begins a chunk in every stream, which
// all have chunks of one length and began together.
func (r *rollout) between() bool { return r.streams[0].chunk == nil }

// take appends the present step to stream i's chunk.
func (r *rollout) take(i int) error {
	s, d, a := &r.streams[i], r.spec.Obs, r.spec.Actions
	flags, mask := r.flags[i], r.mask[i*a:(i+1)*a]
	s.action = int(r.action[i])
	logProb := r.logProb[i]
	switch {
	case flags&protocol.FlagLast != 0:
		s.action, logProb = 0, 0
	case s.action < 0 || s.action >= a || !mask[s.action]:
		return fmt.Errorf("environment %d: the policy chose action %d, which is not allowed", i, s.action)
	}
	if flags&protocol.FlagFirst != 0 {
		s.taken = s.taken[:0]
	}
	s.taken = append(s.taken, uint16(s.action))
	s.running = flags&protocol.FlagLast == 0
	if s.chunk == nil {
		r.begin(s)
	}
	c := s.chunk
	if c.Steps%r.cfg.Stride == 0 {
		n := c.ContextLen
		at := len(c.Context)
		c.Context = append(c.Context, r.context[i*n:(i+1)*n]...)
		if flags&protocol.FlagFirst != 0 {
			clear(c.Context[at:]) // the trial before ends here
		}
	}
	if end, ended := s.trial.Finished(); ended {
		r.totals.Episodes++
		c.Episodes = append(c.Episodes, protocol.Episode{
			Step: c.Steps, Return: end.Return, MeanJCT: end.MeanJCT, Length: end.Length, Task: end.Task,
		})
	}
	c.Obs = append(c.Obs, r.obs[i*d:(i+1)*d]...)
	c.Action = append(c.Action, uint16(s.action))
	c.Reward = append(c.Reward, r.reward[i])
	c.Flags = append(c.Flags, flags)
	c.LogProb = append(c.LogProb, logProb)
	width := protocol.MaskLen(a)
	protocol.PackMask(s.mask[c.Steps*width:(c.Steps+1)*width], mask)
	for _, allowed := range mask {
		s.masked = s.masked || !allowed
	}
	c.Steps++
	r.totals.Steps++
	return nil
}

// begin starts a chunk with the step that was just taken.
func (r *rollout) begin(s *stream) {
	c := r.spare()
	if c == nil {
		n := r.cfg.ChunkLength
		rows := (n + r.cfg.Stride - 1) / r.cfg.Stride
		c = &protocol.Chunk{
			Obs: make([]float32, 0, n*r.spec.Obs), Action: make([]uint16, 0, n), Reward: make([]float32, 0, n),
			Flags: make([]uint8, 0, n), LogProb: make([]float32, 0, n),
			Context: make([]float32, 0, rows*r.policy.ContextLen()),
		}
	}
	*c = protocol.Chunk{
		Run: r.cfg.Run, Actor: r.cfg.Name, Env: s.env, Seq: s.seq,
		Trial: s.trial.Begun(), ParamVersion: r.version, Task: s.trial.Task().Name(),
		ObsLen: r.spec.Obs, Actions: r.spec.Actions, Stride: r.cfg.Stride, ContextLen: r.policy.ContextLen(),
		Obs: c.Obs[:0], Action: c.Action[:0], Reward: c.Reward[:0], Flags: c.Flags[:0], LogProb: c.LogProb[:0],
		Context: c.Context[:0], Episodes: c.Episodes[:0],
	}
	s.chunk, s.masked = c, false
	s.seq++
}

// finish takes the stream's chunk out.
func (r *rollout) finish(s *stream) *protocol.Chunk {
	c := s.chunk
	c.Mask = r.maskOf(s)
	s.chunk = nil
	r.totals.Chunks++
	return c
}

// maskOf returns the mask of the stream's chunk, nil where all is allowed.
func (r *rollout) maskOf(s *stream) []uint8 {
	if !s.masked {
		return nil
	}
	return slices.Clone(s.mask[:s.chunk.Steps*protocol.MaskLen(r.spec.Actions)])
}

// finishPartial takes out the chunks that are not yet complete.
func (r *rollout) finishPartial(emit func(*protocol.Chunk)) {
	for i := range r.streams {
		if s := &r.streams[i]; s.chunk != nil {
			emit(r.finish(s))
		}
	}
}
