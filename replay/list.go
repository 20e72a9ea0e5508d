package replay

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Each calls yield for every chunk stored, in the order of insertion, until it
// returns false. What it is given is its own. Outcomes of episodes are not stored.
func (s *Store) Each(yield func(*protocol.Chunk) bool) {
	for _, id := range s.tenants() {
		if c := s.chunk(id); c != nil && !yield(c) {
			return
		}
	}
}

// tenants lists the slots in use in the order in which their chunks were inserted.
func (s *Store) tenants() []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int32
	for id := range s.index.slots {
		if s.index.slots[id].stream != nil {
			ids = append(ids, int32(id))
		}
	}
	slices.SortFunc(ids, func(a, b int32) int {
		return cmp.Compare(s.index.slots[a].number, s.index.slots[b].number)
	})
	return ids
}

// chunk copies a slot's record, nil where it has been freed meanwhile.
func (s *Store) chunk(id int32) *protocol.Chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := &s.index.slots[id]
	if s.failed != nil || slot.stream == nil {
		return nil
	}
	sh, steps := s.index.shape, int(slot.steps)
	b := slot.segment.data[slot.at : slot.at+slot.size]
	at := sh.columns(steps, slot.masked)
	c := &protocol.Chunk{
		Run: s.cfg.Run, Actor: slot.stream.key.actor, Env: slot.stream.key.env, Seq: slot.seq,
		Trial: binary.LittleEndian.Uint64(b[48:]), ParamVersion: slot.version, Task: slot.task.name,
		Steps: steps, ObsLen: sh.obsLen, Actions: sh.actions, Stride: sh.stride, ContextLen: sh.contextLen,
		Obs:     slices.Clone(floats(b, at.obs, steps*sh.obsLen)),
		Action:  slices.Clone(uint16s(b, at.action, steps)),
		Reward:  slices.Clone(floats(b, at.reward, steps)),
		Flags:   slices.Clone(b[at.flags:at.mask]),
		LogProb: slices.Clone(floats(b, at.logProb, steps)),
		Context: slices.Clone(floats(b, at.context, sh.rows(steps)*sh.contextLen)),
	}
	if slot.masked {
		c.Mask = slices.Clone(b[at.mask:at.logProb])
	}
	return c
}
