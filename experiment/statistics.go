package experiment

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Mean returns the arithmetic mean of values, NaN when there is none.
func Mean(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// Median returns the middle value, or the mean of the two middle values, NaN when there is none.
func Median(values []float64) float64 {
	return Quantile(values, 0.5)
}

// IQM returns the interquartile mean: the mean of what is left after dropping floor(n/4) values at either end, as
// scipy.stats.trim_mean(values, 0.25) and rliable compute it. NaN when there is no value.
func IQM(values []float64) float64 {
	return sortedIQM(slices.Sorted(slices.Values(values)))
}

func sortedIQM(sorted []float64) float64 {
	cut := len(sorted) / 4
	return Mean(sorted[cut : len(sorted)-cut])
}

// Quantile returns the q-quantile (0 <= q <= 1), interpolating linearly between the two neighbours (numpy's default
// definition). NaN when there is no value.
func Quantile(values []float64, q float64) float64 {
	return sortedQuantile(slices.Sorted(slices.Values(values)), q)
}

func sortedQuantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// resamples is the number of bootstrap resamples. From one stream to another a limit of the interval of 30 ratios
// varies by 0.7 % of the interval's width, with 2000 by 1.1 % (standard deviations, measured); it takes 14 ms.
const resamples = 10000

// BootstrapIQM returns the percentile bootstrap's 95 % confidence interval of the IQM. The values are taken to be
// independent, one a seed. The resampling stream is fixed, so that the same values always have the same interval.
func BootstrapIQM(values []float64) (low, high float64) {
	if len(values) == 0 {
		return math.NaN(), math.NaN()
	}
	r := rand.New(rand.NewPCG(0x5eed, uint64(len(values))))
	drawn := make([]float64, len(values))
	iqms := make([]float64, resamples)
	for i := range iqms {
		for j := range drawn {
			drawn[j] = values[r.IntN(len(values))]
		}
		slices.Sort(drawn)
		iqms[i] = sortedIQM(drawn)
	}
	slices.Sort(iqms)
	return sortedQuantile(iqms, 0.025), sortedQuantile(iqms, 0.975)
}
