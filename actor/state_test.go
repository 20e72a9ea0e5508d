package actor

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// An actor interrupted anywhere and restored goes on as if it had not been.
func TestRestoreContinuesExactly(t *testing.T) {
	cfg := Config{ChunkLength: 7, Stride: 3, Spool: 100}
	const envs, steps = 3, 60
	for _, masks := range []bool{false, true} {
		want := &stored{}
		whole := newActor(t, cfg, envs, masks, want)
		publish := func(a *Actor, step int) {
			switch step {
			case 5:
				a.SetParams(1, []byte{1})
			case 30:
				a.SetParams(2, []byte{2})
			}
		}
		// Parameters come right after a step, so that a cut finds them pending.
		run := func(a *Actor, from, to int) {
			for n := from; n < to; n++ {
				ticks(t, a, 1)
				publish(a, n)
			}
			if err := a.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		run(whole, 0, steps)
		all := make([][]*protocol.Chunk, envs)
		for _, c := range want.all() {
			all[c.Env] = append(all[c.Env], c)
		}
		for cut := range steps {
			bus := &stored{}
			first := newActor(t, cfg, envs, masks, bus)
			run(first, 0, cut)
			state, err := first.State()
			if err != nil {
				t.Fatal(err)
			}
			second := newActor(t, cfg, envs, masks, bus)
			if err := second.Restore(state); err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if second.Stats() != afterRestore(first.Stats()) {
				t.Fatalf("cut at %d: stats are %+v, were %+v", cut, second.Stats(), first.Stats())
			}
			run(second, cut, steps)
			sameChunks(t, bus.all(), all)
		}
	}
}

// afterRestore is what of an actor's statistics outlives it.
func afterRestore(s Stats) Stats {
	return Stats{Actor: s.Actor, Steps: s.Steps, Episodes: s.Episodes, Chunks: s.Chunks, ParamVersion: s.ParamVersion}
}

func TestStateWantsAFlush(t *testing.T) {
	a := newActor(t, Config{ChunkLength: 2, Stride: 1, Spool: 9}, 1, false, &stored{})
	ticks(t, a, 2)
	if _, err := a.State(); err == nil {
		t.Error("a state without its unsent chunks was given out")
	}
}

func TestRestoreRefusesAnotherActorsState(t *testing.T) {
	cfg := Config{ChunkLength: 7, Stride: 3, Spool: 100}
	a := newActor(t, cfg, 2, true, &stored{})
	ticks(t, a, 5)
	state, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	for what, other := range map[string]*Actor{
		"more environments": newActor(t, cfg, 3, true, &stored{}),
		"another name":      newActor(t, Config{Name: "b", ChunkLength: 7, Stride: 3, Spool: 100}, 2, true, &stored{}),
		"shorter chunks":    newActor(t, Config{ChunkLength: 5, Stride: 3, Spool: 100}, 2, true, &stored{}),
		"another stride":    newActor(t, Config{ChunkLength: 7, Stride: 2, Spool: 100}, 2, true, &stored{}),
	} {
		if err := other.Restore(state); !errors.Is(err, ErrState) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
}

func FuzzRestore(f *testing.F) {
	cfg := Config{Run: "park", Name: "a", ChunkLength: 7, Stride: 3, Spool: 100}
	fresh := func(t testing.TB) *Actor {
		a, err := New(cfg, trials(t, 2, true), newScript(2), &stored{}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := fresh(f)
	a.SetParams(1, []byte{1})
	ticks(f, a, 5)
	a.SetParams(2, []byte{2})
	state, err := a.State()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(state)
	f.Add(state[:len(state)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a := fresh(t)
		if err := a.Restore(b); err != nil {
			if !errors.Is(err, ErrState) {
				t.Errorf("error %v is no ErrState", err)
			}
			return
		}
		for range 10 { // what was accepted may end in an error, not in a panic
			if a.Tick() != nil {
				break
			}
		}
	})
}
