package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
)

// testChunk has two trials in five steps, a mask over nine actions and three
// context rows.
func testChunk() *Chunk {
	c := &Chunk{
		Run: "park", Actor: "a-1", Env: 3, Seq: 7, Trial: 12, ParamVersion: 40, Task: "default",
		Steps: 5, ObsLen: 2, Actions: 9, Stride: 2, ContextLen: 3,
		Obs:     []float32{0.5, -1, 2, 3, 4, 5, 6, 7, 8, 9},
		Action:  []uint16{8, 0, 0, 3, 1},
		Reward:  []float32{-1, -2.5, -3, 0, -4},
		Flags:   []uint8{0, FlagEpisodeStart, FlagLast | FlagTerminal, FlagFirst | FlagEpisodeStart, 0},
		LogProb: []float32{-0.1, -2, 0, -3, -0.5},
		Context: []float32{1, 2, 3, 4, 5, 6, 7, 8, 9},
		Episodes: []Episode{
			{Step: 1, Return: -123.5, MeanJCT: 400.25, Length: 1000, Task: "default"},
			{Step: 2, Return: -7, MeanJCT: 3, Length: 10, Task: ""},
		},
	}
	c.Mask = make([]uint8, c.Steps*MaskLen(c.Actions))
	for t := range c.Steps {
		mask := make([]bool, c.Actions)
		mask[c.Action[t]] = true
		PackMask(c.Mask[t*MaskLen(c.Actions):(t+1)*MaskLen(c.Actions)], mask)
	}
	return c
}

func encodeChunk(t testing.TB, c *Chunk) []byte {
	t.Helper()
	b, err := c.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChunkRoundTrip(t *testing.T) {
	bare := testChunk()
	bare.Mask, bare.Episodes, bare.Context, bare.ContextLen = nil, nil, nil, 0
	for _, want := range []*Chunk{testChunk(), bare} {
		prefix := []byte("kept")
		b, err := want.AppendTo(prefix)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("AppendTo did not append")
		}
		if n := len(b) - len(prefix); n > want.sizeBound() {
			t.Errorf("encoding has %d bytes, over its bound of %d", n, want.sizeBound())
		}
		b = b[len(prefix):]
		got, err := DecodeChunk(b, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
		clear(b)
		if !reflect.DeepEqual(got, want) {
			t.Fatal("the chunk aliases the message")
		}
	}
}

// golden is a message as its file has it.
func golden(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The golden bytes pin the format: a change here needs a new version number.
func TestChunkGolden(t *testing.T) {
	want := golden(t, "chunk_v1.hex")
	if got := encodeChunk(t, testChunk()); !bytes.Equal(got, want) {
		t.Errorf("encoding changed:\n%s", hex.Dump(got))
	}
	c, err := DecodeChunk(want, Limits{})
	if err != nil || !reflect.DeepEqual(c, testChunk()) {
		t.Errorf("golden bytes decode to %+v, %v", c, err)
	}
}

func TestChunkValidate(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for name, spoil := range map[string]func(*Chunk){
		"run name":            func(c *Chunk) { c.Run = "a.b" },
		"empty actor":         func(c *Chunk) { c.Actor = "" },
		"long task":           func(c *Chunk) { c.Task = strings.Repeat("x", MaxTask+1) },
		"no steps":            func(c *Chunk) { c.Steps = 0 },
		"stride 0":            func(c *Chunk) { c.Stride = 0 },
		"negative width":      func(c *Chunk) { c.ContextLen = -1 },
		"short obs":           func(c *Chunk) { c.Obs = c.Obs[1:] },
		"short context":       func(c *Chunk) { c.Context = c.Context[1:] },
		"short mask":          func(c *Chunk) { c.Mask = c.Mask[1:] },
		"NaN observation":     func(c *Chunk) { c.Obs[3] = nan },
		"infinite reward":     func(c *Chunk) { c.Reward[0] = inf },
		"NaN log prob":        func(c *Chunk) { c.LogProb[0] = nan },
		"NaN context":         func(c *Chunk) { c.Context[8] = nan },
		"action out of range": func(c *Chunk) { c.Action[0] = 9 },
		"masked action":       func(c *Chunk) { c.Action[0] = 7 },
		"unknown flag":        func(c *Chunk) { c.Flags[0] = 16 },
		"first alone":         func(c *Chunk) { c.Flags[3] = FlagFirst },
		"terminal alone":      func(c *Chunk) { c.Flags[0] = FlagTerminal },
		"first inside":        func(c *Chunk) { c.Flags[1] = FlagFirst | FlagEpisodeStart },
		"no first after last": func(c *Chunk) { c.Flags[3] = FlagEpisodeStart },
		"episode order":       func(c *Chunk) { c.Episodes[0].Step = 2 },
		"episode step":        func(c *Chunk) { c.Episodes[1].Step = 5 },
		"episode return":      func(c *Chunk) { c.Episodes[0].Return = math.NaN() },
	} {
		t.Run(name, func(t *testing.T) {
			c := testChunk()
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			spoil(c)
			err := c.Validate()
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("accepted: %v", err)
			}
			if b, err := c.AppendTo([]byte{1}); err == nil || len(b) != 1 {
				t.Errorf("encoded to %d bytes, %v", len(b), err)
			}
		})
	}
}

func TestDecodeChunkReasons(t *testing.T) {
	change := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	for name, tc := range map[string]struct {
		spoil  func([]byte) []byte
		limits Limits
		want   error
	}{
		"empty":           {func([]byte) []byte { return nil }, Limits{}, ErrTruncated},
		"in the prefix":   {func(b []byte) []byte { return b[:10] }, Limits{}, ErrTruncated},
		"in the body":     {func(b []byte) []byte { return b[:len(b)-1] }, Limits{}, ErrTruncated},
		"magic":           {change(3, 'X'), Limits{}, ErrVersion},
		"version":         {change(offsetVersion, 2), Limits{}, ErrVersion},
		"bit flip":        {func(b []byte) []byte { b[len(b)-1] ^= 4; return b }, Limits{}, ErrCorrupt},
		"trailing":        {func(b []byte) []byte { return append(b, 0) }, Limits{}, ErrCorrupt},
		"over bytes":      {func(b []byte) []byte { return b }, Limits{Bytes: 64}, ErrTooLarge},
		"over steps":      {func(b []byte) []byte { return b }, Limits{Steps: 4}, ErrTooLarge},
		"over width":      {func(b []byte) []byte { return b }, Limits{Width: 8}, ErrTooLarge},
		"sealed trailing": {func(b []byte) []byte { b = append(b, 0); sealMessage(b); return b }, Limits{}, ErrCorrupt},
		"sealed short":    {func(b []byte) []byte { b = b[:len(b)-1]; sealMessage(b); return b }, Limits{}, ErrTruncated},
		"sealed NaN": {func(b []byte) []byte { // the context's last value
			copy(b[len(b)-4:], []byte{0, 0, 0xc0, 0x7f})
			sealMessage(b)
			return b
		}, Limits{}, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := DecodeChunk(tc.spoil(encodeChunk(t, testChunk())), tc.limits)
			if c != nil || !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestReason(t *testing.T) {
	for err, want := range map[error]string{
		ErrVersion: "version", ErrTruncated: "truncated", ErrTooLarge: "too_large", ErrCorrupt: "corrupt",
		errors.New("x"): "other",
	} {
		if got := Reason(err); got != want {
			t.Errorf("Reason(%v) = %s, want %s", err, got, want)
		}
	}
}

func TestMaskRoundTrip(t *testing.T) {
	for _, n := range []int{1, 7, 8, 9, 17} {
		want, got := make([]bool, n), make([]bool, n)
		for a := range want {
			want[a] = a%3 == 0
		}
		bits := bytes.Repeat([]byte{0xff}, MaskLen(n))
		PackMask(bits, want)
		UnpackMask(got, bits)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d actions: got %v, want %v", n, got, want)
		}
		UnpackMask(got, nil)
		for a, allowed := range got {
			if !allowed {
				t.Errorf("nil bits forbid action %d", a)
			}
		}
	}
}

func TestMessageID(t *testing.T) {
	if got := testChunk().MessageID(); got != "park/a-1/3/7" {
		t.Error(got)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "Run_1-b": true, strings.Repeat("x", 31): true,
		"": false, strings.Repeat("x", 32): false, "a.b": false, "a b": false, "*": false, ">": false, "é": false, "a/b": false,
	} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) = %v", name, !want)
		}
	}
}

// fuzzSeeds adds a message, cuts and bit flips of it, whole and as bare body.
func fuzzSeeds(f *testing.F, message []byte) {
	f.Add(message)
	f.Add(message[:len(message)/2])
	f.Add(message[:prefixLen])
	for at := 0; at < len(message); at += 1 + len(message)/16 {
		flipped := bytes.Clone(message)
		flipped[at] ^= 0x41
		f.Add(flipped)
	}
}

// resealed gives b a valid prefix, so that fuzzing gets past the CRC.
func resealed(b []byte, magic string) []byte {
	if len(b) < prefixLen {
		return b
	}
	b = bytes.Clone(b)
	copy(b, "\x95\xa4"+magic+"\x01\xce")
	b[offsetCRC-1] = 0xce
	sealMessage(b)
	return b
}

func FuzzDecodeChunk(f *testing.F) {
	fuzzSeeds(f, encodeChunk(f, testChunk()))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resealed(b, chunkMagic)} {
			c, err := DecodeChunk(b, Limits{})
			if err != nil {
				if Reason(err) == "other" {
					t.Fatalf("no reason in %v", err)
				}
				continue
			}
			again, err := DecodeChunk(encodeChunk(t, c), Limits{})
			if err != nil || !reflect.DeepEqual(again, c) {
				t.Fatalf("%+v does not survive a round trip: %+v, %v", c, again, err)
			}
		}
	})
}

// A chunk decoded into the memory of another is the same as one decoded anew.
func TestDecodeChunkReusesMemory(t *testing.T) {
	bare := testChunk()
	bare.Mask, bare.Episodes = nil, nil
	bare.Actor, bare.Steps, bare.Flags[4] = "a-2", 4, 0
	bare.Obs, bare.Action, bare.Reward, bare.Flags, bare.LogProb = bare.Obs[:8], bare.Action[:4], bare.Reward[:4], bare.Flags[:4], bare.LogProb[:4]
	bare.Context = bare.Context[:6]
	used := new(Chunk)
	for _, want := range []*Chunk{testChunk(), bare, testChunk(), bare} {
		b := encodeChunk(t, want)
		if err := decodeChunk(used, b, Limits{}); err != nil {
			t.Fatal(err)
		}
		clear(b)
		if len(used.Episodes) == 0 {
			used.Episodes = nil
		}
		if !reflect.DeepEqual(used, want) {
			t.Fatalf("got %+v\nwant %+v", used, want)
		}
	}
	if obs := &used.Obs[0]; decodeChunk(used, encodeChunk(t, bare), Limits{}) != nil || &used.Obs[0] != obs {
		t.Error("the memory of the observations was not reused")
	}
}
