package replay

import (
	"math/rand/v2"
	"testing"
)

// naive recounts what the index keeps up to date, from its slots alone.
func naive(t *testing.T, x *index) {
	t.Helper()
	window, retained, steps, windowSteps := 0, 0, 0, 0
	for i := range x.slots {
		s := &x.slots[i]
		if s.stream == nil {
			continue
		}
		run := 0
		for seq := s.seq; ; seq++ {
			id, ok := x.chunks[chunkKey{s.stream, seq}]
			if !ok {
				break
			}
			run += int(x.slots[id].steps)
		}
		starts := 0
		for row := range x.shape.rows(int(s.steps)) {
			if row*x.shape.stride+x.length <= run {
				starts++
			}
		}
		if int(s.starts) != starts {
			t.Fatalf("slot %d has %d starts, want %d", i, s.starts, starts)
		}
		if s.order == none && !s.kept {
			t.Fatalf("slot %d is kept by nobody", i)
		}
		if s.order != none {
			window += starts
			windowSteps += int(s.steps)
		}
		if s.kept {
			retained += starts
		}
		steps += int(s.steps)
	}
	if x.recent.total != window || x.retained.total != retained || x.steps != steps || x.windowSteps != windowSteps {
		t.Fatalf("starts %d and %d, steps %d and %d; want %d and %d, %d and %d",
			x.recent.total, x.retained.total, x.steps, x.windowSteps, window, retained, steps, windowSteps)
	}
	if windowSteps > x.limit || x.reservoir.steps > x.reservoir.capacity || len(x.chunks)+len(x.free) != len(x.slots) {
		t.Fatalf("%d steps in the window, %d in the reservoir, %d chunks and %d free of %d slots",
			windowSteps, x.reservoir.steps, len(x.chunks), len(x.free), len(x.slots))
	}
}

// Chunks of many streams and sizes arrive late, out of order, or never; the
// index must agree with a recount, and draws must be what it says they are.
func TestIndexAgreesWithRecount(t *testing.T) {
	for _, capacity := range []int{0, 300} {
		r := rand.New(rand.NewPCG(7, uint64(capacity)))
		x := newIndex(700, 16, reservoir{seed: 1, capacity: capacity})
		x.shape = shape{obsLen: 1, actions: 1, stride: 4, contextLen: 1}
		seg := &segment{}
		seqs := map[streamKey][]uint64{}
		next := map[streamKey]uint64{}
		number, dropped := uint64(0), 0
		for i := range 4000 {
			key := streamKey{"a", uint32(r.IntN(5))}
			for len(seqs[key]) < 3 {
				if r.IntN(10) > 0 { // else a gap
					seqs[key] = append(seqs[key], next[key])
				}
				next[key]++
			}
			k := 0
			if r.IntN(4) == 0 {
				k = r.IntN(3)
			}
			seq := seqs[key][k]
			seqs[key] = append(seqs[key][:k], seqs[key][k+1:]...)
			if x.has(key.actor, key.env, seq) {
				dropped++
				continue
			}
			x.add(record{number: number, env: key.env, seq: seq, actor: key.actor, steps: 1 + r.IntN(30), size: 8}, seg, 0)
			number++
			if !x.has(key.actor, key.env, seq) {
				t.Fatalf("chunk %d is not there", number)
			}
			if i%500 == 499 {
				x.setLength(1 + r.IntN(40))
			}
			naive(t, x)
			if x.starts() == 0 {
				continue
			}
			for _, mix := range []Mix{{Uniform: 1}, {Recency: 1, HalfLife: 100}, {Reservoir: 1}} {
				id, row := x.draw(mix, r)
				s := &x.slots[id]
				if s.stream == nil || row < 0 || row >= int(s.starts) {
					t.Fatalf("drew row %d of slot %d, which has %d starts", row, id, s.starts)
				}
			}
		}
		if dropped > 400 {
			t.Errorf("%d chunks came too late, which is more than lateness explains", dropped)
		}
	}
}

// The newest start is the one of rank 0, however the ring has turned.
func TestIndexDrawsNewestFirst(t *testing.T) {
	x := newIndex(100*8, 8, reservoir{})
	x.shape = shape{obsLen: 1, actions: 1, stride: 4, contextLen: 1}
	r := rand.New(rand.NewPCG(1, 1))
	for n := range uint64(1000) {
		x.add(record{number: n, env: 1, seq: n, actor: "a", steps: 8, size: 8}, &segment{}, 0)
		id, row := x.draw(Mix{Recency: 1, HalfLife: 1}, rand.New(rand.NewPCG(n, 0))) // nearly always rank 0 or 1
		if s := x.slots[id]; n-s.number > 6 {
			t.Fatalf("of %d chunks number %d was drawn as recent", n+1, s.number)
		} else if s.number == n && row != 0 {
			t.Fatalf("row %d of the newest chunk has no whole sequence", row)
		}
	}
	old := 0
	for range 1000 {
		if id, _ := x.draw(Mix{Uniform: 1}, r); x.slots[id].number < 950 {
			old++
		}
	}
	if old < 400 || old > 600 {
		t.Errorf("%d of 1000 even draws from the older half", old)
	}
}
