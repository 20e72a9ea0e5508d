package protocol

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Batch is what one training step learns from: Size sequences of Length
// steps, batch-major, each inside one stream.
type Batch struct {
	Size, Length int // B, T
	ObsLen       int // D
	Actions      int // A
	ContextLen   int // C

	Obs     []float32 // [B,T,D]
	Action  []uint16  // [B,T]
	Reward  []float32 // [B,T]
	Flags   []uint8   // [B,T]
	Mask    []bool    // [B,T,A], always filled
	Context []float32 // [B,C], the carry before each sequence's first step

	ParamVersion []uint64 // [B], of the chunk each sequence starts in
	Refs         []Ref    // context rows at the start of or inside the sequences, for Refresh
}

// Ref names a context row of the replay that lies at a step of a batch.
// A slot that was reused meanwhile has another generation, so that a late
// write-back touches nothing.
type Ref struct {
	Sequence, Step uint32 // where in the batch
	Slot           uint32 // the replay's slot
	Generation     uint32 // of the slot when it was sampled
	Row            uint32 // of the slot's context rows
}

// Refresh carries recomputed context rows back to the replay.
type Refresh struct {
	Refs    []Ref
	Context []float32 // [len(Refs),C]
}

// SampleRequest asks the replay for a batch.
type SampleRequest struct{ Size, Length int }

// Resize gives the batch a shape, keeping its memory where that suffices. The
// columns' values are unspecified and Refs is empty afterwards.
func (b *Batch) Resize(size, length, obsLen, actions, contextLen int) {
	b.Size, b.Length, b.ObsLen, b.Actions, b.ContextLen = size, length, obsLen, actions, contextLen
	steps := size * length
	b.Obs = grow(b.Obs, steps*obsLen)
	b.Action = grow(b.Action, steps)
	b.Reward = grow(b.Reward, steps)
	b.Flags = grow(b.Flags, steps)
	b.Mask = grow(b.Mask, steps*actions)
	b.Context = grow(b.Context, size*contextLen)
	b.ParamVersion = grow(b.ParamVersion, size)
	b.Refs = b.Refs[:0]
}

// SetSequence copies a chunk of the batch's widths and Length steps to sequence
// i. It adds no refs.
func (b *Batch) SetSequence(i int, c *Chunk) {
	at, a := i*b.Length, b.Actions
	copy(b.Obs[at*b.ObsLen:], c.Obs)
	copy(b.Action[at:], c.Action)
	copy(b.Reward[at:], c.Reward)
	copy(b.Flags[at:], c.Flags)
	copy(b.Context[i*b.ContextLen:(i+1)*b.ContextLen], c.Context)
	b.ParamVersion[i] = c.ParamVersion
	width := MaskLen(a)
	for t := range c.Steps {
		mask := b.Mask[(at+t)*a : (at+t+1)*a]
		if c.Mask != nil {
			UnpackMask(mask, c.Mask[t*width:(t+1)*width])
			continue
		}
		for k := range mask {
			mask[k] = true
		}
	}
}

// Validate checks shapes and ranges and that every number is finite. Its
// errors wrap ErrCorrupt or ErrTooLarge.
func (b *Batch) Validate() error { return b.validate(Limits{}.withDefaults()) }

func (b *Batch) validate(lim Limits) error {
	for _, bound := range []struct {
		field        string
		v, low, high int
	}{
		{"size", b.Size, 1, lim.Steps},
		{"length", b.Length, 1, lim.Steps},
		{"obs_len", b.ObsLen, 1, lim.Width},
		{"actions", b.Actions, 1, min(lim.Width, math.MaxUint16)},
		{"context_len", b.ContextLen, 0, lim.Width},
	} {
		if err := checkRange(bound.field, bound.v, bound.low, bound.high); err != nil {
			return err
		}
	}
	steps := b.Size * b.Length
	for _, column := range []struct {
		field     string
		got, want int
	}{
		{"obs", len(b.Obs), steps * b.ObsLen},
		{"action", len(b.Action), steps},
		{"reward", len(b.Reward), steps},
		{"flags", len(b.Flags), steps},
		{"mask", len(b.Mask), steps * b.Actions},
		{"context", len(b.Context), b.Size * b.ContextLen},
		{"param_version", len(b.ParamVersion), b.Size},
	} {
		if err := checkLen(column.field, column.got, column.want); err != nil {
			return err
		}
	}
	for _, column := range []struct {
		field  string
		values []float32
	}{{"obs", b.Obs}, {"reward", b.Reward}, {"context", b.Context}} {
		if err := finite32(column.field, column.values); err != nil {
			return err
		}
	}
	for i, a := range b.Action {
		if int(a) >= b.Actions {
			return fmt.Errorf("action[%d] is %d of %d: %w", i, a, b.Actions, ErrCorrupt)
		}
		if b.Flags[i]&^flagsKnown != 0 {
			return fmt.Errorf("flags[%d] is %#x, an unknown bit is set: %w", i, b.Flags[i], ErrCorrupt)
		}
	}
	for i, r := range b.Refs {
		if int64(r.Sequence) >= int64(b.Size) || int64(r.Step) >= int64(b.Length) {
			return fmt.Errorf("refs[%d] lies at step %d of sequence %d, outside the batch: %w", i, r.Step, r.Sequence, ErrCorrupt)
		}
	}
	return nil
}

var batchLayout, refreshLayout, requestLayout = layout{[]int{13}, 1}, layout{[]int{3}, 1}, layout{[]int{2}, 1}

const (
	batchMagic   = "DFTB"
	refreshMagic = "DFTR"
	requestMagic = "DFTQ"
	refBytes     = 20
)

// AppendTo validates the batch and appends its encoding to dst.
func (b *Batch) AppendTo(dst []byte) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return dst, fmt.Errorf("encode batch: %w", err)
	}
	e := newEncoder(dst, batchMagic, batchLayout)
	e.uint(uint64(b.Size))
	e.uint(uint64(b.Length))
	e.uint(uint64(b.ObsLen))
	e.uint(uint64(b.Actions))
	e.uint(uint64(b.ContextLen))
	e.float32s(b.Obs)
	e.uint16s(b.Action)
	e.float32s(b.Reward)
	e.bytes(b.Flags)
	width := MaskLen(b.Actions)
	e.binary(b.Size * b.Length * width)
	for i := range b.Size * b.Length {
		at := len(e.b)
		e.b = append(e.b, make([]uint8, width)...)
		PackMask(e.b[at:], b.Mask[i*b.Actions:(i+1)*b.Actions])
	}
	e.float32s(b.Context)
	e.uint64s(b.ParamVersion)
	e.refs(b.Refs)
	return e.seal()
}

// DecodeBatch decodes and validates a batch into dst, whose memory is reused
// where it suffices and never aliases b. After an error dst's content is
// unspecified.
func DecodeBatch(dst *Batch, b []byte, limits Limits) error {
	d := newDecoder(b, batchMagic, batchLayout, limits)
	dst.Size = d.int("size", d.lim.Steps)
	dst.Length = d.int("length", d.lim.Steps)
	dst.ObsLen = d.int("obs_len", d.lim.Width)
	dst.Actions = d.int("actions", min(d.lim.Width, math.MaxUint16))
	dst.ContextLen = d.int("context_len", d.lim.Width)
	steps := int64(dst.Size) * int64(dst.Length)
	dst.Obs = d.float32s("obs", dst.Obs, steps*int64(dst.ObsLen))
	dst.Action = d.uint16s("action", dst.Action, steps)
	dst.Reward = d.float32s("reward", dst.Reward, steps)
	dst.Flags = d.uint8s("flags", dst.Flags, steps)
	width := MaskLen(dst.Actions)
	bits := d.column("mask", steps*int64(width))
	dst.Mask = grow(dst.Mask, 0)
	if d.err == nil {
		dst.Mask = grow(dst.Mask, int(steps)*dst.Actions)
		for i := range int(steps) {
			UnpackMask(dst.Mask[i*dst.Actions:(i+1)*dst.Actions], bits[i*width:(i+1)*width])
		}
	}
	dst.Context = d.float32s("context", dst.Context, int64(dst.Size)*int64(dst.ContextLen))
	dst.ParamVersion = d.uint64s("param_version", dst.ParamVersion, int64(dst.Size))
	dst.Refs = d.refs("refs", dst.Refs)
	if err := d.close(); err != nil {
		return fmt.Errorf("decode batch: %w", err)
	}
	if err := dst.validate(d.lim); err != nil {
		return fmt.Errorf("decode batch: %w", err)
	}
	return nil
}

// contextLen is the width of the rows, 0 for a refresh of nothing.
func (r *Refresh) contextLen() int {
	if len(r.Refs) == 0 {
		return 0
	}
	return len(r.Context) / len(r.Refs)
}

// Validate checks that Context has one row of equal width for each of Refs and
// that every number is finite.
func (r *Refresh) Validate() error {
	if err := checkLen("context", len(r.Context), len(r.Refs)*r.contextLen()); err != nil {
		return err
	}
	return finite32("context", r.Context)
}

// AppendTo validates the refresh and appends its encoding to dst.
func (r *Refresh) AppendTo(dst []byte) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return dst, fmt.Errorf("encode refresh: %w", err)
	}
	e := newEncoder(dst, refreshMagic, refreshLayout)
	e.uint(uint64(r.contextLen()))
	e.refs(r.Refs)
	e.float32s(r.Context)
	return e.seal()
}

// DecodeRefresh decodes and validates a refresh, which never aliases b.
func DecodeRefresh(b []byte, limits Limits) (*Refresh, error) {
	d := newDecoder(b, refreshMagic, refreshLayout, limits)
	width := d.int("context_len", d.lim.Width)
	r := &Refresh{Refs: d.refs("refs", nil)}
	r.Context = d.float32s("context", nil, int64(len(r.Refs))*int64(width))
	if err := d.close(); err != nil {
		return nil, fmt.Errorf("decode refresh: %w", err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("decode refresh: %w", err)
	}
	return r, nil
}

// AppendTo appends the request's encoding to dst.
func (r SampleRequest) AppendTo(dst []byte) ([]byte, error) {
	if err := r.validate(Limits{}.withDefaults()); err != nil {
		return dst, fmt.Errorf("encode sample request: %w", err)
	}
	e := newEncoder(dst, requestMagic, requestLayout)
	e.uint(uint64(r.Size))
	e.uint(uint64(r.Length))
	return e.seal()
}

func (r SampleRequest) validate(lim Limits) error {
	if err := checkRange("size", r.Size, 1, lim.Steps); err != nil {
		return err
	}
	return checkRange("length", r.Length, 1, lim.Steps)
}

// DecodeSampleRequest decodes and validates a request.
func DecodeSampleRequest(b []byte, limits Limits) (SampleRequest, error) {
	d := newDecoder(b, requestMagic, requestLayout, limits)
	r := SampleRequest{Size: d.int("size", d.lim.Steps), Length: d.int("length", d.lim.Steps)}
	if err := d.close(); err != nil {
		return SampleRequest{}, fmt.Errorf("decode sample request: %w", err)
	}
	if err := r.validate(d.lim); err != nil {
		return SampleRequest{}, fmt.Errorf("decode sample request: %w", err)
	}
	return r, nil
}

// refs writes a bin of 20 bytes a ref: sequence, step, slot, generation, row.
func (e *encoder) refs(refs []Ref) {
	e.binary(refBytes * len(refs))
	for _, r := range refs {
		for _, v := range [...]uint32{r.Sequence, r.Step, r.Slot, r.Generation, r.Row} {
			e.b = binary.LittleEndian.AppendUint32(e.b, v)
		}
	}
}

func (d *decoder) refs(field string, dst []Ref) []Ref {
	raw, present := d.raw(field, d.lim.Bytes)
	if !present || len(raw)%refBytes != 0 {
		d.fail(field, fmt.Errorf("not a whole number of refs: %w", ErrCorrupt))
		raw = nil
	}
	dst = grow(dst, len(raw)/refBytes)
	for i := range dst {
		at := raw[refBytes*i:]
		dst[i] = Ref{
			Sequence:   binary.LittleEndian.Uint32(at),
			Step:       binary.LittleEndian.Uint32(at[4:]),
			Slot:       binary.LittleEndian.Uint32(at[8:]),
			Generation: binary.LittleEndian.Uint32(at[12:]),
			Row:        binary.LittleEndian.Uint32(at[16:]),
		}
	}
	return dst
}
