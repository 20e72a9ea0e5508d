package experiment

import (
	"cmp"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
)

// Sample is what the runs of a method got on one test: Sample[s][i] is the value, such as the ratio to LEFT, of the
// policy of training run s on evaluation seed i. Rows have the same length, of the same evaluation seeds in the same
// order. A heuristic is one run.
type Sample [][]float64

// Interval is an estimate with its 95 % bootstrap interval.
type Interval struct {
	Value, Low, High float64
}

// MarshalJSON writes numbers that are none, of nothing measured, as null.
func (i Interval) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Value float64Null `json:"value"`
		Low   float64Null `json:"low"`
		High  float64Null `json:"high"`
	}{float64Null(i.Value), float64Null(i.Low), float64Null(i.High)})
}

// float64Null is a number that is null in JSON where it is not finite.
type float64Null float64

func (f float64Null) MarshalJSON() ([]byte, error) {
	if v := float64(f); !math.IsNaN(v) && !math.IsInf(v, 0) {
		return json.Marshal(v)
	}
	return []byte("null"), nil
}

// Estimates condenses a method's values. Over several tests each is the mean of what it is on every test, so that no
// test is trimmed away with the worst quarter.
type Estimates struct {
	IQM    Interval `json:"iqm"`
	Mean   Interval `json:"mean"`
	Median Interval `json:"median"`
}

// The intervals of this file are percentile intervals of one bootstrap that resamples on two crossed levels:
//
//   - training runs, as wholes: a drawn run brings its values on all tests, because they are of one policy and rise and
//     fall together. Methods are the strata: each keeps its number of runs. (Agarwal et al. 2021 draw the runs of every
//     task independently, which fits benchmarks where a run is trained for one task.)
//   - evaluation seeds, within each test: tests are the strata, and a drawn seed brings its values in all runs, and in
//     both methods where two are compared, because all met the same jobs.
//
// So the interval covers what another set of training seeds and other jobs would have changed. With one run only the
// jobs are covered; with two or three the first level is a few values and the interval is too narrow: of n runs a
// bootstrap sees (n-1)/n of the variance.

// resampled is the number of resamples of an interval of a report, where there are hundreds of them: from one
// stream to another a limit varies by 1.1 % of the interval's width (see resamples).
const resampled = 2000

// Estimate condenses the values of a method on one or more tests, NaN throughout when there is no value. Run s is the
// same training run in every sample.
func Estimate(tests ...Sample) Estimates {
	drawn := make([]ordered, len(tests))
	for t, sample := range tests {
		drawn[t] = order(sample)
	}
	runs := 0
	if len(tests) > 0 {
		runs = len(tests[0])
	}
	out := bootstrap(3, func(d *draw, into []float64) {
		byRun := d.counts(runs)
		for _, o := range drawn {
			iqm, mean, median := o.weighted(byRun, d.counts(o.seeds))
			into[0] += iqm / float64(len(drawn))
			into[1] += mean / float64(len(drawn))
			into[2] += median / float64(len(drawn))
		}
		if len(drawn) == 0 {
			into[0], into[1], into[2] = math.NaN(), math.NaN(), math.NaN()
		}
	})
	return Estimates{IQM: out[0], Mean: out[1], Median: out[2]}
}

// Improvement is the probability that x is below y, which is better: of a drawn run of each and a drawn evaluation
// seed, on which both met the same jobs, ties counting half; the mean over the tests. It differs from the probability
// of improvement of Agarwal et al. 2021 in that pairs share their jobs. x[t] and y[t] are of the same test and have
// the same evaluation seeds.
func Improvement(x, y []Sample) Interval {
	type wins [][][]uint8 // by run of x, run of y and evaluation seed, in halves
	tables := make([]wins, len(x))
	for t := range x {
		tables[t] = make(wins, len(x[t]))
		for a, mine := range x[t] {
			tables[t][a] = make([][]uint8, len(y[t]))
			for b, theirs := range y[t] {
				won := make([]uint8, len(mine))
				for i := range mine {
					switch cmp.Compare(mine[i], theirs[i]) {
					case -1:
						won[i] = 2
					case 0:
						won[i] = 1
					}
				}
				tables[t][a][b] = won
			}
		}
	}
	if len(x) == 0 || len(x[0]) == 0 || len(y[0]) == 0 {
		return Interval{math.NaN(), math.NaN(), math.NaN()}
	}
	return bootstrap(1, func(d *draw, into []float64) {
		mine, theirs := d.counts(len(x[0])), d.counts(len(y[0]))
		for _, table := range tables {
			seeds := d.counts(len(table[0][0]))
			won, all := 0, 0
			for a, m := range mine {
				for b, n := range theirs {
					if m*n == 0 {
						continue
					}
					sum := 0
					for i, w := range table[a][b] {
						sum += seeds[i] * int(w)
					}
					won += m * n * sum
					all += m * n * 2 * len(seeds)
				}
			}
			into[0] += float64(won) / float64(all) / float64(len(tables))
		}
	})[0]
}

// Profile is the performance profile (Agarwal et al. 2021): for each of the thresholds, which ascend, the share of
// values at or below it, with pointwise intervals; the mean over the tests.
func Profile(thresholds []float64, tests ...Sample) []Interval {
	drawn, runs := make([]ordered, len(tests)), 0
	for t, sample := range tests {
		drawn[t], runs = order(sample), len(sample)
	}
	return bootstrap(len(thresholds), func(d *draw, into []float64) {
		byRun := d.counts(runs)
		for _, o := range drawn {
			bySeed := d.counts(o.seeds)
			below, at := 0, 0
			for k, threshold := range thresholds {
				for ; at < len(o.values) && o.values[at].value <= threshold; at++ {
					below += byRun[o.values[at].run] * bySeed[o.values[at].seed]
				}
				into[k] += float64(below) / float64(len(o.values)) / float64(len(drawn))
			}
		}
	})
}

// ordered are the values of a sample, ascending, each with where it is from.
type ordered struct {
	values []orderedValue
	seeds  int
}

type orderedValue struct {
	value     float64
	run, seed int
}

func order(sample Sample) ordered {
	var o ordered
	for s, row := range sample {
		o.seeds = len(row)
		for i, v := range row {
			o.values = append(o.values, orderedValue{v, s, i})
		}
	}
	slices.SortStableFunc(o.values, func(a, b orderedValue) int { return cmp.Compare(a.value, b.value) })
	return o
}

// weighted returns the statistics of the resample in which each value stands as often as its run's count times its
// seed's. The counts add up to as many values as there are.
func (o ordered) weighted(byRun, bySeed []int) (iqm, mean, median float64) {
	n := len(o.values)
	if n == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	from, to := n/4, n-n/4 // kept by the interquartile mean
	lower, upper := (n-1)/2, n/2
	at := 0
	for _, v := range o.values {
		count := byRun[v.run] * bySeed[v.seed]
		if count == 0 {
			continue
		}
		next := at + count
		mean += float64(count) * v.value
		if kept := min(next, to) - max(at, from); kept > 0 {
			iqm += float64(kept) * v.value
		}
		if at <= lower && lower < next {
			median += v.value / 2
		}
		if at <= upper && upper < next {
			median += v.value / 2
		}
		at = next
	}
	return iqm / float64(to-from), mean / float64(n), median
}

// draw makes resamples, and first the sample itself.
type draw struct {
	random  *rand.Rand // nil: everything once
	counted [][]int    // by this resample, to be used again by the next
	used    int
}

// counts says how often each of n is drawn when n are drawn with replacement.
func (d *draw) counts(n int) []int {
	if d.used == len(d.counted) {
		d.counted = append(d.counted, make([]int, n))
	}
	counts := d.counted[d.used]
	if len(counts) != n {
		counts = make([]int, n)
		d.counted[d.used] = counts
	}
	d.used++
	clear(counts)
	for i := range counts {
		if d.random == nil {
			counts[i] = 1
		} else {
			counts[d.random.IntN(n)]++
		}
	}
	return counts
}

// bootstrap adds up n statistics of the sample and of resamples. The stream is fixed.
func bootstrap(n int, statistics func(d *draw, into []float64)) []Interval {
	value := make([]float64, n)
	statistics(&draw{}, value)
	columns := make([][]float64, n)
	for k := range columns {
		columns[k] = make([]float64, 0, resampled)
	}
	d := &draw{random: rand.New(rand.NewPCG(0x5eed, 0x626f6f74))}
	into := make([]float64, n)
	for range resampled {
		clear(into)
		d.used = 0
		statistics(d, into)
		for k, v := range into {
			columns[k] = append(columns[k], v)
		}
	}
	intervals := make([]Interval, n)
	for k, column := range columns {
		slices.Sort(column)
		intervals[k] = Interval{value[k], sortedQuantile(column, 0.025), sortedQuantile(column, 0.975)}
	}
	return intervals
}
