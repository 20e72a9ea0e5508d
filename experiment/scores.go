package experiment

import (
	"errors"
	"fmt"
	"slices"
)

// ErrUnpaired reports scores that can not be compared seed by seed.
var ErrUnpaired = errors.New("scores are not of the same seeds")

// Scores holds the result of one policy: MeanJCT[i] is the mean job completion time, in the simulator's time units,
// of the episode of Seeds[i].
type Scores struct {
	Policy  string    `json:"policy"`
	Seeds   []uint64  `json:"seeds"`
	MeanJCT []float64 `json:"mean_jct"`
}

// Ratios returns scores over reference, seed by seed: below 1 is better than the reference. The error is ErrUnpaired
// where the seeds differ.
func Ratios(scores, reference Scores) ([]float64, error) {
	if !slices.Equal(scores.Seeds, reference.Seeds) ||
		len(scores.MeanJCT) != len(scores.Seeds) || len(reference.MeanJCT) != len(reference.Seeds) {
		return nil, fmt.Errorf("comparing %s with %s: %w", scores.Policy, reference.Policy, ErrUnpaired)
	}
	ratios := make([]float64, len(scores.MeanJCT))
	for i, jct := range scores.MeanJCT {
		if !(reference.MeanJCT[i] > 0) {
			return nil, fmt.Errorf("comparing %s with %s: the reference's mean JCT of seed %d is %g, not positive",
				scores.Policy, reference.Policy, reference.Seeds[i], reference.MeanJCT[i])
		}
		ratios[i] = jct / reference.MeanJCT[i]
	}
	return ratios, nil
}

// Summary condenses values of which there is one a seed. CI95 is the 95 % confidence interval of the IQM.
type Summary struct {
	Mean   float64    `json:"mean"`
	IQM    float64    `json:"iqm"`
	Median float64    `json:"median"`
	CI95   [2]float64 `json:"ci95"`
}

// Summarize computes the Summary of values, NaN throughout when there is none.
func Summarize(values []float64) Summary {
	low, high := BootstrapIQM(values)
	return Summary{Mean: Mean(values), IQM: IQM(values), Median: Median(values), CI95: [2]float64{low, high}}
}
