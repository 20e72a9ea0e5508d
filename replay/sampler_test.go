package replay

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// chiSquare is Pearson's statistic.
func chiSquare(counts []int, weights []float64) float64 {
	n, sum := 0, 0.0
	for i := range counts {
		n += counts[i]
		sum += weights[i]
	}
	x := 0.0
	for i := range counts {
		expected := float64(n) * weights[i] / sum
		x += (float64(counts[i]) - expected) * (float64(counts[i]) - expected) / expected
	}
	return x
}

// limitChiSquare is far in the tail, at some five standard deviations.
func limitChiSquare(bins int) float64 {
	return float64(bins-1) + 5*math.Sqrt(2*float64(bins-1))
}

func TestMixDistributions(t *testing.T) {
	const ranks, draws = 64, 200_000
	even := make([]float64, ranks)
	recent := make([]float64, ranks)
	for i := range ranks {
		even[i] = 1
		recent[i] = math.Exp2(-4 * float64(i) / 40) // a start each 4 steps
	}
	for _, test := range []struct {
		name              string
		mix               Mix
		window, reservoir int
		windowWeights     []float64
		fromReservoir     float64
	}{
		{"uniform", Mix{Uniform: 1}, ranks, 0, even, 0},
		{"recency", Mix{Recency: 1, HalfLife: 40}, ranks, 0, recent, 0},
		{"reservoir", Mix{Reservoir: 1}, ranks, ranks, nil, 1},
		{"half reservoir, half recency", Mix{Recency: 0.5, Reservoir: 0.5, HalfLife: 40}, ranks, ranks, recent, 0.5},
		{"a quarter reservoir", Mix{Uniform: 0.75, Reservoir: 0.25}, ranks, ranks, even, 0.25},
		{"empty reservoir", Mix{Reservoir: 1}, ranks, 0, even, 0},
		{"empty window", Mix{Uniform: 1}, 0, ranks, nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			var window, reservoir [ranks]int
			n := 0
			for range draws {
				in, rank := test.mix.draw(r, test.window, test.reservoir, 4)
				if in {
					reservoir[rank]++
					n++
				} else {
					window[rank]++
				}
			}
			p := test.fromReservoir
			if sigma := math.Sqrt(draws * p * (1 - p)); math.Abs(float64(n)-draws*p) > 5*sigma {
				t.Errorf("%d of %d from the reservoir, want %v", n, draws, p)
			}
			if x, limit := chiSquare(reservoir[:], even), limitChiSquare(ranks); n > 0 && x > limit {
				t.Errorf("reservoir: chi-square %.0f, at most %.0f", x, limit)
			}
			if n < draws {
				if x, limit := chiSquare(window[:], test.windowWeights), limitChiSquare(ranks); x > limit {
					t.Errorf("window: chi-square %.0f, at most %.0f: %v", x, limit, window)
				}
			}
		})
	}
}

func TestMixRefusals(t *testing.T) {
	for _, test := range []struct {
		mix       Mix
		reservoir int
		want      string
	}{
		{Mix{Uniform: 1.5}, 0, "uniform sampler is 1.5"},
		{Mix{Uniform: 1, Recency: math.NaN()}, 0, "recency sampler is NaN"},
		{Mix{Uniform: 0.5}, 0, "sum to 0.5"},
		{Mix{Recency: 1}, 0, "half-life of the recency sampler is 0"},
		{Mix{Recency: 1, HalfLife: math.Inf(1)}, 0, "half-life of the recency sampler is +Inf"},
		{Mix{Reservoir: 1}, 0, "no capacity"},
	} {
		if err := test.mix.check(test.reservoir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.mix, err, test.want)
		}
	}
}

func TestRecentRankBounds(t *testing.T) {
	largest := math.Nextafter(1, 0)
	for _, halvings := range []float64{1e-15, 1e-6, 0.1, 1, 1e6} {
		for _, n := range []int{1, 2, 1000, 1 << 30} {
			if low, high := recentRank(0, n, halvings), recentRank(largest, n, halvings); low != 0 || high < 0 || high >= n {
				t.Errorf("ranks of %d at %v halvings each: %d to %d", n, halvings, low, high)
			}
		}
	}
	if got := recentRank(0.5, 1<<30, 0.001); got < 999 || got > 1001 {
		t.Errorf("half of the weight ends at rank %d, want 1000", got)
	}
}

// Every chunk ever offered must be a member with the same probability, whenever
// it came.
func TestReservoirIsEven(t *testing.T) {
	const offered, capacity, steps, seeds = 200, 20, 8, 4000
	counts := make([]int, offered)
	even := make([]float64, offered)
	for seed := range uint64(seeds) {
		r := reservoir{seed: seed * 0x9e37, capacity: capacity * steps}
		for n := range offered {
			r.offer(int32(n), uint64(n), steps)
			for r.overfull() {
				r.drop(steps)
			}
		}
		if len(r.heap) != capacity || r.steps != capacity*steps {
			t.Fatalf("%d members of %d steps", len(r.heap), r.steps)
		}
		for _, m := range r.heap {
			counts[m.slot]++
		}
	}
	for i := range even {
		even[i] = 1
	}
	if x, limit := chiSquare(counts, even), limitChiSquare(offered); x > limit {
		t.Errorf("chi-square %.0f, at most %.0f", x, limit)
	}
}

// Members come and go with chunks of different lengths, and the reservoir
// always holds those with the largest keys.
func TestReservoirKeepsLargestKeys(t *testing.T) {
	r := reservoir{seed: 3, capacity: 500}
	sizes := rand.New(rand.NewPCG(1, 2))
	steps := map[int32]int{}
	for n := range int32(300) {
		steps[n] = 1 + sizes.IntN(60)
		r.offer(n, uint64(n), steps[n])
		for r.overfull() {
			r.drop(steps[r.least()])
		}
		sum, least := 0, uint64(math.MaxUint64)
		for _, m := range r.heap {
			sum += steps[m.slot]
			least = min(least, m.key)
		}
		if sum != r.steps || sum > r.capacity || least <= r.floor || r.heap[0].key != least {
			t.Fatalf("after %d chunks: %d steps counted as %d, least key %x, floor %x", n+1, sum, r.steps, least, r.floor)
		}
	}
}

func TestTally(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tree, plain := newTally(64), make([]int, 64)
	for range 2000 {
		bin := r.IntN(64)
		delta := r.IntN(5)
		if r.IntN(2) == 0 {
			delta = -r.IntN(plain[bin] + 1)
		}
		tree.add(bin, int32(delta))
		plain[bin] += delta
		before := 0
		for i, n := range plain {
			if got := tree.before(i); got != before {
				t.Fatalf("before(%d) is %d, want %d", i, got, before)
			}
			for k := range n {
				if bin, rest := tree.find(before + k); bin != i || rest != k {
					t.Fatalf("find(%d) is bin %d and %d, want %d and %d", before+k, bin, rest, i, k)
				}
			}
			before += n
		}
		if tree.total != before {
			t.Fatalf("total %d, want %d", tree.total, before)
		}
	}
}
