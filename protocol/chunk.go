package protocol

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Flags of a time step, DreamerV3's convention: a step's reward is the one
// received on arriving at its observation.
const (
	FlagFirst        uint8 = 1 << iota // first step of a trial: recurrent state is reset before it, reward is 0
	FlagEpisodeStart                   // first step of an episode; set with FlagFirst too
	FlagLast                           // last step of a trial; its action is ignored and 0
	FlagTerminal                       // the return ends here; only with FlagLast
	flagsKnown       = FlagFirst | FlagEpisodeStart | FlagLast | FlagTerminal
)

// MaxTask is the longest task name in bytes.
const MaxTask = 256

// Chunk is a run of consecutive time steps of one stream, the unit that
// actors publish and replay stores. A stream is one environment slot of one
// actor, a sequence of trials for ever; a chunk may hold the end of one trial
// and the start of the next. All columns are step-major.
//
// Actor names one life of an actor process: a process that starts anew must
// take another name, or else continue Seq, since (Run, Actor, Env, Seq) is
// the identity by which a repeated chunk is dropped.
type Chunk struct {
	Run, Actor   string // see ValidName
	Env          uint32 // environment slot of the actor
	Seq          uint64 // chunks of this stream before this one; no gaps where none was dropped
	Trial        uint64 // trials begun in this stream up to and including the chunk's first step
	ParamVersion uint64 // parameters that acted at the first step; 0: none yet
	Task         string // task of the first step, at most MaxTask bytes

	Steps      int // S, at least 1
	ObsLen     int // D, observation width with RL²'s two inputs, at least 1
	Actions    int // A, 1 to 65535
	Stride     int // steps from one context row to the next, at least 1
	ContextLen int // C, width of the recurrent context; may be 0

	Obs     []float32 // [S,D]
	Action  []uint16  // [S], below Actions
	Reward  []float32 // [S]
	Flags   []uint8   // [S]
	LogProb []float32 // [S], of Action under the policy that acted, in nats
	Mask    []uint8   // [S,MaskLen(A)] bits of allowed actions, see PackMask; nil: all are allowed
	Context []float32 // [ContextRows(),C], the carry before steps 0, Stride, 2*Stride...

	Episodes []Episode // that ended in this chunk, in order
}

// Episode is the outcome of an episode, told with the step at which its last
// reward arrived.
type Episode struct {
	Step    int     // index into the chunk
	Return  float64 // sum of rewards, unscaled
	MeanJCT float64 // mean job completion time, in the simulator's time units
	Length  int     // actions taken
	Task    string  // at most MaxTask bytes
}

// ContextRows is the number of rows in Context: one for every Stride steps.
func (c *Chunk) ContextRows() int { return (c.Steps + c.Stride - 1) / c.Stride }

// MessageID is the chunk's identity run/actor/env/seq: the same for every
// attempt at delivering it, different for any other chunk.
func (c *Chunk) MessageID() string {
	b := make([]byte, 0, 2*MaxName+34)
	b = append(append(append(append(b, c.Run...), '/'), c.Actor...), '/')
	b = append(strconv.AppendUint(b, uint64(c.Env), 10), '/')
	return string(strconv.AppendUint(b, c.Seq, 10))
}

// Validate checks shapes, names, ranges, the order of flags, and that every
// number is finite. Its errors wrap ErrCorrupt or ErrTooLarge.
func (c *Chunk) Validate() error { return c.validate(Limits{}.withDefaults()) }

func (c *Chunk) validate(lim Limits) error {
	if err := checkName("run", c.Run); err != nil {
		return fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if err := checkName("actor", c.Actor); err != nil {
		return fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if len(c.Task) > MaxTask {
		return fmt.Errorf("task name of %d bytes, at most %d: %w", len(c.Task), MaxTask, ErrTooLarge)
	}
	for _, bound := range []struct {
		field        string
		v, low, high int
	}{
		{"steps", c.Steps, 1, lim.Steps},
		{"obs_len", c.ObsLen, 1, lim.Width},
		{"actions", c.Actions, 1, min(lim.Width, math.MaxUint16)},
		{"stride", c.Stride, 1, lim.Steps},
		{"context_len", c.ContextLen, 0, lim.Width},
		{"episodes", len(c.Episodes), 0, c.Steps},
	} {
		if err := checkRange(bound.field, bound.v, bound.low, bound.high); err != nil {
			return err
		}
	}
	for _, column := range []struct {
		field     string
		got, want int
	}{
		{"obs", len(c.Obs), c.Steps * c.ObsLen},
		{"action", len(c.Action), c.Steps},
		{"reward", len(c.Reward), c.Steps},
		{"flags", len(c.Flags), c.Steps},
		{"log_prob", len(c.LogProb), c.Steps},
		{"context", len(c.Context), c.ContextRows() * c.ContextLen},
	} {
		if err := checkLen(column.field, column.got, column.want); err != nil {
			return err
		}
	}
	if c.Mask != nil {
		if err := checkLen("mask", len(c.Mask), c.Steps*MaskLen(c.Actions)); err != nil {
			return err
		}
	}
	for _, column := range []struct {
		field  string
		values []float32
	}{{"obs", c.Obs}, {"reward", c.Reward}, {"log_prob", c.LogProb}, {"context", c.Context}} {
		if err := finite32(column.field, column.values); err != nil {
			return err
		}
	}
	if err := c.validateSteps(); err != nil {
		return err
	}
	return c.validateEpisodes()
}

func (c *Chunk) validateSteps() error {
	width := MaskLen(c.Actions)
	for t, flags := range c.Flags {
		first, last := flags&FlagFirst != 0, flags&FlagLast != 0
		switch {
		case flags&^flagsKnown != 0:
			return fmt.Errorf("flags[%d] is %#x, an unknown bit is set: %w", t, flags, ErrCorrupt)
		case first && flags&FlagEpisodeStart == 0:
			return fmt.Errorf("flags[%d] starts a trial but no episode: %w", t, ErrCorrupt)
		case flags&FlagTerminal != 0 && !last:
			return fmt.Errorf("flags[%d] ends the return inside a trial: %w", t, ErrCorrupt)
		case t > 0 && first != (c.Flags[t-1]&FlagLast != 0):
			return fmt.Errorf("flags[%d]: a trial starts exactly where the one before has ended: %w", t, ErrCorrupt)
		}
		action := int(c.Action[t])
		if action >= c.Actions {
			return fmt.Errorf("action[%d] is %d of %d: %w", t, action, c.Actions, ErrCorrupt)
		}
		if c.Mask != nil && !last && c.Mask[t*width+action>>3]>>(action&7)&1 == 0 {
			return fmt.Errorf("action[%d] is %d, which the mask forbids: %w", t, action, ErrCorrupt)
		}
	}
	return nil
}

func (c *Chunk) validateEpisodes() error {
	for i, e := range c.Episodes {
		switch {
		case e.Step < 0 || e.Step >= c.Steps || i > 0 && e.Step <= c.Episodes[i-1].Step:
			return fmt.Errorf("episodes[%d] ends at step %d, out of order or range: %w", i, e.Step, ErrCorrupt)
		case !finite64(e.Return) || !finite64(e.MeanJCT):
			return fmt.Errorf("episodes[%d] has return %v and mean completion time %v: %w", i, e.Return, e.MeanJCT, ErrCorrupt)
		case e.Length < 0 || e.Length > math.MaxInt32:
			return fmt.Errorf("episodes[%d] has length %d: %w", i, e.Length, ErrCorrupt)
		case len(e.Task) > MaxTask:
			return fmt.Errorf("episodes[%d]: task name of %d bytes, at most %d: %w", i, len(e.Task), MaxTask, ErrTooLarge)
		}
	}
	return nil
}

var chunkLayout = layout{[]int{20}, 1}

const (
	chunkMagic    = "DFTC"
	episodeFields = 5
)

// AppendTo validates the chunk and appends its encoding to dst.
func (c *Chunk) AppendTo(dst []byte) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return dst, fmt.Errorf("encode chunk: %w", err)
	}
	e := newEncoder(slices.Grow(dst, c.sizeBound()), chunkMagic, chunkLayout)
	e.str(c.Run)
	e.str(c.Actor)
	e.uint(uint64(c.Env))
	e.uint(c.Seq)
	e.uint(c.Trial)
	e.uint(c.ParamVersion)
	e.str(c.Task)
	e.uint(uint64(c.Steps))
	e.uint(uint64(c.ObsLen))
	e.uint(uint64(c.Actions))
	e.uint(uint64(c.Stride))
	e.uint(uint64(c.ContextLen))
	e.array(len(c.Episodes))
	for _, ep := range c.Episodes {
		e.array(episodeFields)
		e.uint(uint64(ep.Step))
		e.f64(ep.Return)
		e.f64(ep.MeanJCT)
		e.uint(uint64(ep.Length))
		e.str(ep.Task)
	}
	e.float32s(c.Obs)
	e.uint16s(c.Action)
	e.float32s(c.Reward)
	e.bytes(c.Flags)
	e.float32s(c.LogProb)
	if c.Mask == nil {
		e.keep(e.m.EncodeNil())
	} else {
		e.bytes(c.Mask)
	}
	e.float32s(c.Context)
	return e.seal()
}

// sizeBound is at least the length of the encoding, so that it is written
// without moving.
func (c *Chunk) sizeBound() int {
	const number, fixed = 9, 256 // bytes of an integer or float; of all else but the arrays
	n := fixed + len(c.Run) + len(c.Actor) + len(c.Task) +
		4*(len(c.Obs)+len(c.Reward)+len(c.LogProb)+len(c.Context)) + 2*len(c.Action) + len(c.Flags) + len(c.Mask)
	for _, e := range c.Episodes {
		n += episodeFields*number + len(e.Task)
	}
	return n
}

// DecodeChunk decodes and validates a chunk. The chunk has its own memory and
// never aliases b. Errors wrap ErrVersion, ErrTruncated, ErrTooLarge or
// ErrCorrupt.
func DecodeChunk(b []byte, limits Limits) (*Chunk, error) {
	c := new(Chunk)
	if err := decodeChunk(c, b, limits); err != nil {
		return nil, err
	}
	return c, nil
}

// decodeChunk is DecodeChunk into c, whose memory is reused where it suffices.
// After an error c's content is unspecified.
func decodeChunk(c *Chunk, b []byte, limits Limits) error {
	d := newDecoder(b, chunkMagic, chunkLayout, limits)
	old := *c
	*c = Chunk{
		Run:          d.str("run", MaxName),
		Actor:        d.str("actor", MaxName),
		Env:          uint32(d.uint("env", math.MaxUint32)),
		Seq:          d.uint("seq", math.MaxUint64),
		Trial:        d.uint("trial", math.MaxUint64),
		ParamVersion: d.uint("param_version", math.MaxUint64),
		Task:         d.str("task", MaxTask),
		Steps:        d.int("steps", d.lim.Steps),
		ObsLen:       d.int("obs_len", d.lim.Width),
		Actions:      d.int("actions", min(d.lim.Width, math.MaxUint16)),
		Stride:       d.int("stride", d.lim.Steps),
		ContextLen:   d.int("context_len", d.lim.Width),
		Episodes:     old.Episodes[:0],
	}
	if c.Stride < 1 {
		d.fail("stride", fmt.Errorf("0, at least 1: %w", ErrCorrupt))
		c.Stride = 1
	}
	n := d.array("episodes", 0, c.Steps)
	for i := 0; i < n && d.err == nil; i++ {
		d.array("episode", episodeFields, episodeFields)
		c.Episodes = append(c.Episodes, Episode{
			Step:    d.int("episode step", c.Steps),
			Return:  d.f64("episode return"),
			MeanJCT: d.f64("episode mean_jct"),
			Length:  d.int("episode length", math.MaxInt32),
			Task:    d.str("episode task", MaxTask),
		})
	}
	steps := int64(c.Steps)
	c.Obs = d.float32s("obs", old.Obs, steps*int64(c.ObsLen))
	c.Action = d.uint16s("action", old.Action, steps)
	c.Reward = d.float32s("reward", old.Reward, steps)
	c.Flags = d.uint8s("flags", old.Flags, steps)
	c.LogProb = d.float32s("log_prob", old.LogProb, steps)
	if raw, present := d.raw("mask", d.lim.Bytes); present {
		c.Mask = append(old.Mask[:0], raw...)
		if c.Mask == nil { // an empty mask is none of the right length, nil allows all
			c.Mask = []uint8{}
		}
	}
	c.Context = d.float32s("context", old.Context, int64(c.ContextRows())*int64(c.ContextLen))
	err := d.close()
	if err == nil {
		err = c.validate(d.lim)
	}
	if err != nil {
		return fmt.Errorf("decode chunk: %w", err)
	}
	return nil
}

// MaskLen is the number of bytes that hold one bit per action.
func MaskLen(actions int) int { return (actions + 7) / 8 }

// PackMask writes mask as bits into dst, of MaskLen(len(mask)) bytes: action a
// is bit a%8, counted from the lowest, of byte a/8.
func PackMask(dst []uint8, mask []bool) {
	clear(dst)
	for a, allowed := range mask {
		if allowed {
			dst[a>>3] |= 1 << (a & 7)
		}
	}
}

// UnpackMask is the inverse of PackMask; nil bits allow every action.
func UnpackMask(mask []bool, bits []uint8) {
	for a := range mask {
		mask[a] = bits == nil || bits[a>>3]>>(a&7)&1 != 0
	}
}

func checkRange(field string, v, low, high int) error {
	switch {
	case v < low:
		return fmt.Errorf("%s is %d, at least %d: %w", field, v, low, ErrCorrupt)
	case v > high:
		return fmt.Errorf("%s is %d, at most %d: %w", field, v, high, ErrTooLarge)
	}
	return nil
}

func checkLen(field string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s has %d values, its shape says %d: %w", field, got, want, ErrCorrupt)
	}
	return nil
}
