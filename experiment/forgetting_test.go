package experiment

import (
	"context"
	"testing"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// follower is a world model whose context is the number of steps that it has seen of a sequence.
type follower struct {
	t     *testing.T
	last  map[int][]float32 // the step that pieces share
	calls int
}

func (f *follower) Losses(_ context.Context, b *protocol.Batch) (map[string]float64, []float32, error) {
	if err := b.Validate(); err != nil {
		f.t.Error(err)
	}
	var rows []float32
	for i := range b.Size {
		seen := b.Context[i]
		first := b.Flags[i*b.Length]&protocol.FlagFirst != 0
		if first != (f.calls == 0) && f.calls == 0 || int(seen) != f.calls*(b.Length-1) {
			f.t.Fatalf("piece %d of sequence %d: %v steps before it, first %v", f.calls, i, seen, first)
		}
		from, to := i*b.Length*b.ObsLen, (i+1)*b.Length*b.ObsLen
		if f.calls > 0 {
			for k, x := range f.last[i] {
				if b.Obs[from+k] != x {
					f.t.Fatalf("piece %d of sequence %d does not begin where the last one ended", f.calls, i)
				}
			}
		}
		f.last[i] = append([]float32(nil), b.Obs[to-b.ObsLen:to]...)
		rows = append(rows, seen+float32(b.Refs[i].Step))
	}
	f.calls++
	return map[string]float64{"kl": float64(f.calls)}, rows, nil
}

func TestHeldBackSequences(t *testing.T) {
	cfg := loadbalance.DefaultConfig()
	cfg.Jobs = 100
	tasks := loadbalance.Tasks{Base: *loadbalance.ParkTask(), Permute: true}
	const size, length = 4, 9
	make := func(blind bool) *HeldBack {
		h, err := NewHeldBack(t.Context(), cfg, tasks, 2, blind, size, length)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h, again, blind := make(false), make(false), make(true)
	f := &follower{t: t, last: map[int][]float32{}}
	losses, err := h.Losses(t.Context(), f, 1)
	pieces := heldBackSteps / (length - 1)
	if err != nil || f.calls != pieces || losses["kl"] != float64(pieces+1)/2 {
		t.Errorf("%d pieces, losses %v, %v", f.calls, losses, err)
	}
	worked := [2]float64{}
	for i := range size {
		for s := range h.steps {
			at := (i*h.steps+s)*h.spec.Obs + h.spec.Obs
			if h.obs[at-1] != again.obs[at-1] || h.action[i*h.steps+s] != again.action[i*h.steps+s] {
				t.Fatal("the same trials are other ones the second time")
			}
			if blind.obs[at-1] != 0 || blind.obs[at-2] != 0 {
				t.Fatal("a blind agent is shown RL²'s inputs")
			}
			worked[i%2] += float64(h.reward[i*h.steps+s])
		}
	}
	if !(worked[0] > 2*worked[1]) {
		t.Errorf("LEFT is paid %g, random play %g", worked[0], worked[1])
	}
	if h.spec.Obs != blind.spec.Obs || h.spec.Actions != 10 || h.flags[0]&uint8(env.First) == 0 {
		t.Errorf("shape %+v", h.spec)
	}
}
