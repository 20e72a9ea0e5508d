package replay

import (
	"github.com/dreamfleet/dreamfleet/protocol"
)

// piece is the part of a sequence that lies in one chunk.
type piece struct {
	slot int32
	from int // first step in the chunk
	to   int // first step in the batch
	n    int // steps
	next int // piece that goes on with the sequence, or none
	data []byte
	columns
}

// fill draws a batch and copies it out of the mapped segments. What is drawn
// lies anywhere in memory, and where the chunk after it lies only its slot
// tells. So fill goes over all pieces once to find them and once to read a
// little of each before it copies any: each time the processor waits for as
// many of them at once as it can, not for one after the other. A batch takes
// three fifths of the time so.
func (s *Store) fill(dst *protocol.Batch, size, length int) {
	sh := s.index.shape
	dst.Resize(size, length, sh.obsLen, sh.actions, sh.contextLen)
	s.pieces = s.pieces[:0]
	for i := range size {
		id, row := s.index.draw(s.cfg.Mix, s.rng)
		s.pieces = append(s.pieces, piece{slot: id, from: row * sh.stride, to: i * length, n: length})
	}
	s.locate()
	s.touch(size)
	allow(dst.Mask)
	for i := range size {
		s.copyContext(dst, i)
		for at := i; at != none; at = s.pieces[at].next {
			s.copySteps(dst, i, &s.pieces[at])
		}
	}
	// Segments are unmapped some day, and nothing may point into them then.
	clear(s.pieces)
	clear(s.ahead)
}

// locate finds the first pieces, whose n is that of the whole sequence, and
// adds those that follow: first the second ones of all sequences, and so on.
func (s *Store) locate() {
	for at := 0; at < len(s.pieces); at++ {
		p := &s.pieces[at]
		c := &s.index.slots[p.slot]
		p.data = c.segment.data[c.at : c.at+c.size]
		p.columns = s.index.shape.columns(int(c.steps), c.masked)
		p.next = none
		if left := p.n - (int(c.steps) - p.from); left > 0 {
			p.n -= left
			p.next = len(s.pieces)
			s.pieces = append(s.pieces, piece{slot: c.next, to: p.to + p.n, n: left})
		}
	}
}

// touch reads a byte of every page from which the first pieces, so many, and
// the others will be copied.
func (s *Store) touch(first int) {
	sh := s.index.shape
	s.ahead = s.ahead[:0]
	for i := range s.pieces {
		p := &s.pieces[i]
		// The columns between these two are on the way.
		s.announce(p.data[p.obs+4*p.from*sh.obsLen : p.flags+p.from+p.n])
		if i < first && sh.contextLen > 0 {
			s.announce(p.row(sh))
		}
	}
	for _, b := range s.ahead {
		s.touched += *b
	}
}

// announce has a byte of every page of b read.
func (s *Store) announce(b []byte) {
	const page = 4 << 10
	for at := 0; at < len(b); at += page {
		s.ahead = append(s.ahead, &b[at])
	}
	s.ahead = append(s.ahead, &b[len(b)-1])
}

// row is the bytes of the context before the piece's first step.
func (p *piece) row(sh shape) []byte {
	width := 4 * sh.contextLen
	at := p.context + p.from/sh.stride*width
	return p.data[at : at+width]
}

// copyContext copies what comes once for each sequence.
func (s *Store) copyContext(dst *protocol.Batch, i int) {
	sh, p := s.index.shape, &s.pieces[i]
	copy(dst.Context[i*sh.contextLen:], floats(p.row(sh), 0, sh.contextLen))
	dst.ParamVersion[i] = s.index.slots[p.slot].version
}

// copySteps copies a piece of sequence i.
func (s *Store) copySteps(dst *protocol.Batch, i int, p *piece) {
	sh, from, n, to := s.index.shape, p.from, p.n, p.to
	copy(dst.Obs[to*sh.obsLen:], floats(p.data, p.obs+4*from*sh.obsLen, n*sh.obsLen))
	copy(dst.Reward[to:], floats(p.data, p.reward+4*from, n))
	copy(dst.Action[to:], uint16s(p.data, p.action+2*from, n))
	copy(dst.Flags[to:], p.data[p.flags+from:p.flags+from+n])
	c := &s.index.slots[p.slot]
	if c.masked { // else all is allowed
		width := protocol.MaskLen(sh.actions)
		unpackMasks(dst.Mask[to*sh.actions:(to+n)*sh.actions], p.data[p.mask+from*width:], sh.actions)
	}
	begin := to - i*dst.Length
	for row := sh.rows(from); row*sh.stride < from+n; row++ {
		dst.Refs = append(dst.Refs, protocol.Ref{
			Sequence: uint32(i), Step: uint32(begin + row*sh.stride - from),
			Slot: uint32(p.slot), Generation: c.generation, Row: uint32(row),
		})
	}
}

// allow sets all of mask, doubling what is set: copy moves 32 bytes at a time,
// where a loop sets one.
func allow(mask []bool) {
	if len(mask) == 0 {
		return
	}
	mask[0] = true
	for n := 1; n < len(mask); n *= 2 {
		copy(mask[n:], mask[:n])
	}
}

// spread holds the eight bools of every byte of a mask, lowest bit first.
var spread = func() (table [256][8]bool) {
	for bits := range table {
		protocol.UnpackMask(table[bits][:], []uint8{uint8(bits)})
	}
	return table
}()

// unpackMasks is protocol.UnpackMask for all steps of mask, a byte at a time.
func unpackMasks(mask []bool, bits []uint8, actions int) {
	for len(mask) > 0 {
		step := mask[:actions]
		for len(step) > 0 {
			step = step[copy(step, spread[bits[0]][:]):]
			bits = bits[1:]
		}
		mask = mask[actions:]
	}
}
