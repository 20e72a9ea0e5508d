package actor

import (
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/protocol"
)

const stateFormat = 1

// ErrState is wrapped by the errors of Restore.
var ErrState = errors.New("actor: invalid state")

// savedState is an actor between two ticks.
type savedState struct {
	Format  int
	Totals  totals
	Version uint64 // of Params
	Params  []byte // nil: none loaded yet
	Pending []byte // nil: none pending
	Next    uint64 // version of Pending
	Policy  []byte
	Streams []savedStream
}

type savedStream struct {
	Trial   []byte   // env.Trial's state at the current trial's beginning
	Running bool     // a trial is under way
	Taken   []uint16 // actions chosen since it began, which bring it to where it was
	Seq     uint64
	Chunk   []byte // partial, as protocol encodes it; empty: none
}

// State returns all it takes to continue exactly: environments, policy,
// parameters, partial chunks and numbers. The spool must have been flushed.
func (a *Actor) State() ([]byte, error) {
	if chunks, _, _ := a.spool.level(); chunks > 0 {
		return nil, fmt.Errorf("actor %s: state with %d chunks unsent: flush first", a.cfg.Name, chunks)
	}
	r := a.rollout
	state := savedState{Format: stateFormat, Totals: r.totals, Streams: make([]savedStream, len(r.streams))}
	if a.params != nil {
		state.Version, state.Params = a.params.version, a.params.blob
	}
	if p := a.pending.Load(); p != nil {
		state.Next, state.Pending = p.version, p.blob
	}
	var err error
	if state.Policy, err = r.policy.Save(nil); err != nil {
		return nil, fmt.Errorf("actor %s: save the policy's state: %w", a.cfg.Name, err)
	}
	for i := range r.streams {
		if state.Streams[i], err = r.saveStream(&r.streams[i]); err != nil {
			return nil, fmt.Errorf("actor %s: environment %d: %w", a.cfg.Name, i, err)
		}
	}
	return msgpack.Marshal(&state)
}

func (r *rollout) saveStream(s *stream) (savedStream, error) {
	saved := savedStream{Trial: s.trial.State(), Running: s.running, Taken: s.taken, Seq: s.seq}
	if s.chunk == nil {
		return saved, nil
	}
	c := *s.chunk
	c.Mask = r.maskOf(s)
	var err error
	saved.Chunk, err = c.AppendTo(nil)
	return saved, err
}

// Restore takes up a State. The actor is freshly made, with the arguments of
// the one that State was asked of; after an error it can not be used.
func (a *Actor) Restore(state []byte) error {
	if err := a.restore(state); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	a.show()
	return nil
}

func (a *Actor) restore(b []byte) error {
	var state savedState
	if err := msgpack.Unmarshal(b, &state); err != nil {
		return err
	}
	r := a.rollout
	switch {
	case state.Format != stateFormat:
		return fmt.Errorf("format %d, this program reads %d", state.Format, stateFormat)
	case len(state.Streams) != len(r.streams):
		return fmt.Errorf("%d environments, this actor has %d", len(state.Streams), len(r.streams))
	}
	if state.Params != nil {
		if err := r.policy.Load(state.Params); err != nil {
			return fmt.Errorf("parameters: %w", err)
		}
		a.params = &params{state.Version, state.Params}
		r.version = state.Version
	}
	if state.Pending != nil {
		a.SetParams(state.Next, state.Pending)
	}
	if err := r.policy.Restore(state.Policy); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	r.totals = state.Totals
	for i := range r.streams {
		if err := r.restoreStream(&r.streams[i], &state.Streams[i]); err != nil {
			return fmt.Errorf("environment %d: %w", i, err)
		}
	}
	return nil
}

func (r *rollout) restoreStream(s *stream, saved *savedStream) error {
	if err := s.trial.Restore(saved.Trial); err != nil {
		return err
	}
	s.seq, s.running, s.taken = saved.Seq, saved.Running, saved.Taken
	if s.running {
		if err := s.replay(); err != nil {
			return err
		}
	}
	if len(saved.Chunk) == 0 {
		return nil
	}
	c, err := protocol.DecodeChunk(saved.Chunk, protocol.Limits{})
	if err != nil {
		return err
	}
	if c.Run != r.cfg.Run || c.Actor != r.cfg.Name || c.Env != s.env || c.Seq+1 != s.seq ||
		c.Steps >= r.cfg.ChunkLength || c.Stride != r.cfg.Stride || c.ContextLen != r.policy.ContextLen() ||
		c.ObsLen != r.spec.Obs || c.Actions != r.spec.Actions {
		return fmt.Errorf("partial chunk %s of %d steps does not fit", c.MessageID(), c.Steps)
	}
	s.chunk, s.masked = c, c.Mask != nil
	width := protocol.MaskLen(r.spec.Actions)
	mask := make([]bool, r.spec.Actions)
	for t := range c.Steps {
		var bits []uint8
		if s.masked {
			bits = c.Mask[t*width : (t+1)*width]
		}
		protocol.UnpackMask(mask, bits)
		protocol.PackMask(s.mask[t*width:(t+1)*width], mask)
	}
	return nil
}

// replay brings the environment to where it was by the actions that did.
func (s *stream) replay() error {
	if len(s.taken) == 0 {
		return errors.New("a trial is under way without an action")
	}
	if _, err := s.trial.Next(0); err != nil {
		return err
	}
	last := len(s.taken) - 1
	for t, action := range s.taken[:last] {
		step, err := s.trial.Next(int(action))
		if err != nil {
			return err
		}
		if step.Flags&env.Last != 0 {
			return fmt.Errorf("its trial ends after %d of %d actions", t+1, last)
		}
	}
	s.action = int(s.taken[last])
	return nil
}
