package actor

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func newActor(t testing.TB, cfg Config, envs int, masks bool, publisher Publisher) *Actor {
	t.Helper()
	cfg.Run = "park"
	if cfg.Name == "" {
		cfg.Name = "a"
	}
	a, err := New(cfg, trials(t, envs, masks), newScript(envs), publisher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func ticks(t testing.TB, a *Actor, n int) {
	t.Helper()
	for range n {
		if err := a.Tick(); err != nil {
			t.Fatal(err)
		}
	}
}

// expect plays one stream step by step, without batches or chunks, and cuts it
// into chunks afterwards. version tells which parameters act at a step.
func expect(t *testing.T, trial *env.Trial, stream uint32, steps, length, stride int, version func(step int) uint64) []*protocol.Chunk {
	t.Helper()
	var all []*protocol.Chunk
	var state row
	action := 0
	for n := range steps {
		step, err := trial.Next(action)
		if err != nil {
			t.Fatal(err)
		}
		v := version(n)
		if n%length == 0 {
			all = append(all, &protocol.Chunk{
				Run: "park", Actor: "a", Env: stream, Seq: uint64(n / length), Trial: trial.Begun(), ParamVersion: v,
				Task: trial.Task().Name(), ObsLen: len(step.Obs), Actions: len(step.Mask), Stride: stride, ContextLen: 2,
			})
		}
		c := all[len(all)-1]
		if n%length%stride == 0 {
			before := state
			if step.Flags&env.First != 0 {
				before = row{}
			}
			c.Context = append(c.Context, before.sum, before.last)
		}
		if end, ok := trial.Finished(); ok {
			c.Episodes = append(c.Episodes, protocol.Episode{Step: c.Steps, Return: end.Return, MeanJCT: end.MeanJCT, Length: end.Length, Task: end.Task})
		}
		chosen, logProb := state.act(step.Obs, uint8(step.Flags), step.Mask, int(v))
		action = int(chosen)
		if step.Flags&env.Last != 0 {
			action, logProb = 0, 0
		}
		c.Obs = append(c.Obs, step.Obs...)
		c.Reward = append(c.Reward, step.Reward)
		c.Flags = append(c.Flags, uint8(step.Flags))
		c.Action = append(c.Action, uint16(action))
		c.LogProb = append(c.LogProb, logProb)
		bits := make([]uint8, protocol.MaskLen(len(step.Mask)))
		protocol.PackMask(bits, step.Mask)
		c.Mask = append(c.Mask, bits...)
		c.Steps++
	}
	for _, c := range all {
		free := true
		for _, bits := range c.Mask {
			free = free && bits == 1<<gameActions-1
		}
		if free {
			c.Mask = nil
		}
	}
	return all
}

// sameChunks compares what was stored with what was expected of each stream.
func sameChunks(t *testing.T, got []*protocol.Chunk, want [][]*protocol.Chunk) {
	t.Helper()
	streams := make([][]*protocol.Chunk, len(want))
	for _, c := range got {
		streams[c.Env] = append(streams[c.Env], c)
	}
	for i := range want {
		if len(streams[i]) != len(want[i]) {
			t.Fatalf("stream %d has %d chunks, want %d", i, len(streams[i]), len(want[i]))
		}
		for k, w := range want[i] {
			if g := streams[i][k]; !reflect.DeepEqual(g, w) {
				t.Fatalf("stream %d, chunk %d is\n%+v, want\n%+v", i, k, g, w)
			}
		}
	}
}

// What a scripted policy does in scripted environments comes out in chunks
// exactly, trials, episodes and context rows where they belong.
func TestTranscript(t *testing.T) {
	const envs, steps = 3, 120
	for _, c := range []struct {
		length, stride int
		masks          bool
	}{{10, 4, false}, {8, 8, true}, {7, 1, true}, {5, 16, false}} {
		t.Run(fmt.Sprintf("length %d stride %d", c.length, c.stride), func(t *testing.T) {
			bus := &stored{}
			a := newActor(t, Config{ChunkLength: c.length, Stride: c.stride, Spool: 100}, envs, c.masks, bus)
			version := func(step int) uint64 {
				switch {
				case step < 20:
					return 0
				case step < 50:
					return 2
				default:
					return 4
				}
			}
			for n := range steps {
				if n == 20 {
					a.SetParams(2, []byte{2})
				}
				if n == 50 {
					a.SetParams(3, []byte{3}) // overtaken before the tick
					a.SetParams(4, []byte{4})
				}
				if n == 70 {
					a.SetParams(5, []byte("torn"))
				}
				ticks(t, a, 1)
				if n%9 == 0 {
					if err := a.Flush(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
			}
			a.rollout.finishPartial(a.spool.add)
			if err := a.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			want := make([][]*protocol.Chunk, envs)
			episodes := 0
			for i, trial := range trials(t, envs, c.masks) {
				want[i] = expect(t, trial, uint32(i), steps, c.length, c.stride, version)
				for _, chunk := range want[i] {
					episodes += len(chunk.Episodes)
				}
			}
			sameChunks(t, bus.all(), want)
			s := a.Stats()
			if s.Steps != steps*envs || s.ParamVersion != 4 || s.ParamsRejected != 1 || s.Episodes != uint64(episodes) || s.Dropped != 0 {
				t.Errorf("stats are %+v, want %d steps, %d episodes, version 4 and one blob rejected", s, steps*envs, episodes)
			}
		})
	}
}

// A dropped chunk leaves a gap in Seq and changes nothing else.
func TestDroppedChunksLeaveGaps(t *testing.T) {
	bus := &stored{}
	a := newActor(t, Config{ChunkLength: 5, Stride: 5, Spool: 4}, 2, false, bus)
	ticks(t, a, 25) // five chunks in each of two streams; four fit
	if err := a.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := make([][]*protocol.Chunk, 2)
	for i, trial := range trials(t, 2, false) {
		want[i] = expect(t, trial, uint32(i), 25, 5, 5, func(int) uint64 { return 0 })[3:]
	}
	sameChunks(t, bus.all(), want)
	if s := a.Stats(); s.Dropped != 6 || s.Published != 4 || s.SpoolChunks != 0 || s.SpoolBytes != 0 {
		t.Errorf("stats are %+v, want 6 dropped, 4 published and an empty spool", s)
	}
}

// cheat chooses a forbidden action.
type cheat struct{ *script }

func (c cheat) Act(_ []float32, _ []uint8, mask []bool, action []int32, _ []float32) {
	for i := range action {
		for a := range gameActions {
			if !mask[i*gameActions+a] {
				action[i] = int32(a)
			}
		}
	}
}

func TestForbiddenActionIsAnError(t *testing.T) {
	a, err := New(Config{Run: "park", Name: "a", ChunkLength: 5, Stride: 5, Spool: 4}, trials(t, 1, true), cheat{newScript(1)}, &stored{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Tick(); err == nil {
		t.Error("a forbidden action was taken")
	}
}

// Between two chunks a tick allocates nothing.
func TestTickDoesNotAllocate(t *testing.T) {
	a := newActor(t, Config{ChunkLength: 10_000, Stride: 16, Spool: 100}, 8, true, &stored{})
	ticks(t, a, 300)
	if n := testing.AllocsPerRun(100, func() { ticks(t, a, 1) }); n > 0 {
		t.Errorf("a tick makes %v allocations", n)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Run: "park", Name: "a", ChunkLength: 5, Stride: 5, Spool: 4}
	for name, change := range map[string]func(*Config){
		"run":            func(c *Config) { c.Run = "a.b" },
		"name":           func(c *Config) { c.Name = "" },
		"chunk_length":   func(c *Config) { c.ChunkLength = 0 },
		"context_stride": func(c *Config) { c.Stride = 0 },
		"spool":          func(c *Config) { c.Spool = 1 },
	} {
		c := good
		change(&c)
		if _, err := New(c, trials(t, 2, false), newScript(2), &stored{}, hclog.NewNullLogger()); err == nil {
			t.Errorf("a bad %s is accepted", name)
		}
	}
}

func TestIncarnate(t *testing.T) {
	first, err := Incarnate("west-3")
	if err != nil {
		t.Fatal(err)
	}
	second, err := Incarnate("west-3")
	if err != nil {
		t.Fatal(err)
	}
	if first == second || !protocol.ValidName(first) {
		t.Errorf("two lives are named %q and %q", first, second)
	}
	if _, err := Incarnate("a-name-that-leaves-no-room"); err == nil {
		t.Error("a name without room for the suffix is accepted")
	}
}
