package protocol

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Sequences are divided in proportion, all of them, and nobody without steps has any.
func TestDivide(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, weights := range [][]uint64{{1}, {300, 100}, {5, 0, 7}, {1, 1, 1}, {1 << 40, 1}, {0, 0, 3}} {
		const n, rounds = 7, 20_000
		sum := 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		got := make([]float64, len(weights))
		for range rounds {
			total := 0
			for i, c := range divide(n, weights, rng.Float64) {
				share := n * float64(weights[i]) / sum
				if c < int(share) || float64(c) > math.Ceil(share) {
					t.Fatalf("%v: %d has %d of %d", weights, i, c, n)
				}
				got[i] += float64(c)
				total += c
			}
			if total != n {
				t.Fatalf("%v: %d of %d are given", weights, total, n)
			}
		}
		for i, w := range weights {
			if want := n * rounds * float64(w) / sum; math.Abs(got[i]-want) > 0.02*n*rounds {
				t.Errorf("%v: %d has %v in all, want %v", weights, i, got[i], want)
			}
		}
	}
	if got := divide(3, []uint64{0, 0}, rng.Float64); !slices.Equal(got, []int{0, 0}) {
		t.Errorf("without steps: %v", got)
	}
}

// Flow adds up, and a shard that is silent holds nobody.
func TestFlowsAddUp(t *testing.T) {
	f := newFlows(2)
	now := time.Unix(1000, 0)
	f.take(0, Flow{Hold: true, Reason: "ahead", Inserts: 10, Samples: 20, Steps: 5, Balance: 3}, now)
	f.take(1, Flow{Inserts: 1, Samples: 2, Steps: 1, Balance: -4}, now.Add(2*time.Second))
	want := Flow{Hold: true, Reason: "ahead", Inserts: 11, Samples: 22, Steps: 6, Balance: -1}
	if got := f.sum(now.Add(4 * time.Second)); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	want.Hold, want.Reason = false, ""
	if got := f.sum(now.Add(6 * time.Second)); got != want {
		t.Errorf("after its silence %+v, want %+v", got, want)
	}
	if !f.here(1, now.Add(6*time.Second)) || f.here(0, now.Add(6*time.Second)) {
		t.Error("the wrong shard is away")
	}
}

// The shard of an actor never changes: chunks on their way belong to it.
func TestShardOf(t *testing.T) {
	counts := make([]int, 4)
	for i := range 1000 {
		counts[ShardOf("host-"+string(rune('a'+i%26))+string(rune('a'+i/26)), 4)]++
	}
	if slices.Min(counts) < 200 {
		t.Errorf("a thousand actors are divided %v", counts)
	}
	if a, b := ShardOf("local-0", 64), ShardOf("local-0", 1); a != 61 || b != 0 {
		t.Errorf("local-0 is of shard %d of 64 and %d of 1", a, b)
	}
}
