package dispatch

import (
	"slices"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// TaskLabel marks what a dispatcher has seen among the trajectories of a run: the
// name of its task in every chunk, by which a replay tells it from simulated ones.
const TaskLabel = "dispatch"

// trajectory is a stream's experience: the chunk in the making. Its streams are
// numbered in the order in which they came; a stream that is forgotten and comes again
// has another number, so that its steps never seem to follow older ones.
type trajectory struct {
	number uint32
	seq    uint64
	trial  uint64
	steps  int // of the trial
	limit  int // steps of a trial

	chunk  *protocol.Chunk
	open   bool // the newest step lacks its action
	masked bool
}

// over reports whether the trial's last step has been taken.
func (t *trajectory) over() bool { return t.steps >= t.limit }

// ends reports whether the coming step must begin another trial: the last one is over,
// or its newest step was decided late or not at all, and what was not seen whole is not
// learnt from.
func (t *trajectory) ends() bool { return t.open || t.over() }

// drop forgets the chunk in the making. Its number is not used again.
func (t *trajectory) drop() {
	if t.chunk != nil {
		t.chunk, t.open = nil, false
		t.seq++
	}
}

// observe takes in a step before it is decided. Service.mu is held.
func (s *Service) observe(st *stream, obs []float32, reward float32, flags uint8, up []bool) {
	t := st.record
	if t == nil {
		t = &trajectory{number: s.recorded, limit: s.plan.Experience.Trial}
		s.recorded++
		st.record = t
	}
	if flags&protocol.FlagFirst != 0 && !(t.over() && !t.open) {
		t.drop()
	}
	if flags&protocol.FlagFirst != 0 {
		t.trial++
		t.steps = 0
	}
	if t.chunk == nil {
		m := s.policy.Model
		t.chunk = &protocol.Chunk{
			Run: s.run, Actor: s.name, Env: t.number, Seq: t.seq, Trial: t.trial, Task: TaskLabel,
			ObsLen: m.Obs, Actions: m.Actions, Stride: s.stride, ContextLen: m.ContextLen(),
		}
		if s.acting != nil {
			t.chunk.ParamVersion = s.acting.number
		}
		t.masked = false
	}
	c := t.chunk
	if c.Steps%c.Stride == 0 {
		at := len(c.Context)
		c.Context = append(c.Context, st.memory...)
		if flags&protocol.FlagFirst != 0 {
			clear(c.Context[at:])
		}
	}
	c.Obs = append(c.Obs, obs...)
	c.Reward = append(c.Reward, reward)
	c.Flags = append(c.Flags, flags)
	packed := make([]uint8, protocol.MaskLen(len(up)))
	protocol.PackMask(packed, up)
	c.Mask = append(c.Mask, packed...)
	t.masked = t.masked || slices.Contains(up, false)
	t.open = true
	t.steps++
}

// acted completes the step with what was decided. Service.mu is held.
func (s *Service) acted(st *stream, server int, v verdict, probs []float32) {
	t := st.record
	if t == nil || !t.open {
		return
	}
	c := t.chunk
	logProb := float32(0) // the reference draws nothing
	if v.reason == "" {
		logProb = v.logProb
	}
	if t.over() {
		// The last step of a trial: its action counts for nothing.
		c.Flags[len(c.Flags)-1] |= protocol.FlagLast
		server, logProb = 0, 0
	}
	c.Action = append(c.Action, uint16(server))
	c.LogProb = append(c.LogProb, logProb)
	c.Steps++
	t.open = false
	if c.Steps < s.plan.Experience.Chunk {
		return
	}
	if !t.masked {
		c.Mask = nil
	}
	t.seq++
	t.chunk = nil
	s.record(c)
}
