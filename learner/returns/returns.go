// Package returns holds what the learning algorithms share of returns and
// advantages: lambda-returns, and the moving scales that advantages are divided
// by. It is plain arithmetic on float32 slices.
package returns

import (
	"math"
	"slices"
)

// Lambda writes the lambda-returns of rollouts of steps steps and n
// columns, row t·n + i (DreamerV3, eq. 7):
//
//	R_t = r_{t+1} + live_{t+1}·((1-λ_{t+1})·boot_{t+1} + λ_{t+1}·R_{t+1}),  R_last = boot_last
//
// reward, live and boot have steps rows, ret has one less. live is the
// discounted probability that the return goes on after arriving at a step, and
// cut, which may be nil, marks steps behind which the trajectory does not go
// on, where λ is taken to be zero. With boot the values of a critic, R_t - boot_t is
// the generalised advantage estimate (Schulman et al. 2015, arXiv 1506.02438).
func Lambda(ret, reward, live, boot []float32, cut []bool, lambda float32, steps, n int) {
	for i := range n {
		next := boot[(steps-1)*n+i]
		for t := steps - 2; t >= 0; t-- {
			k := (t+1)*n + i
			l := lambda
			if cut != nil && cut[k] {
				l = 0
			}
			next = reward[k] + live[k]*((1-l)*boot[k]+l*next)
			ret[t*n+i] = next
		}
	}
}

// What DreamerV3 fixes (table "Hyperparameters").
const (
	lowQuantile  = 0.05
	highQuantile = 0.95
	leastRange   = 1.0
)

// Range keeps exponential moving averages of a low and a high
// percentile of the returns, whose distance scales the advantages (DreamerV3,
// section "Actor learning").
type Range struct {
	Low, High float32
	sorted    []float32
}

// Update moves the averages by rate towards the percentiles of x.
func (p *Range) Update(x []float32, rate float64) {
	p.sorted = append(p.sorted[:0], x...)
	slices.Sort(p.sorted)
	p.Low += float32(rate) * (quantile(p.sorted, lowQuantile) - p.Low)
	p.High += float32(rate) * (quantile(p.sorted, highQuantile) - p.High)
}

// Scale is the range by which advantages are divided, at least one, so that
// small returns are not blown up.
func (p *Range) Scale() float32 { return max(leastRange, p.High-p.Low) }

// quantile interpolates linearly between the closest ranks.
func quantile(sorted []float32, q float64) float32 {
	at := q * float64(len(sorted)-1)
	i := int(math.Floor(at))
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	f := float32(at - float64(i))
	return sorted[i]*(1-f) + sorted[i+1]*f
}

// Size keeps an exponential moving average of the advantages' mean
// absolute value.
type Size struct {
	Mean float32
	Seen float32 // weight that the average has taken up, against its bias towards zero
}

// Update moves the average by rate towards the mean absolute value of x.
func (d *Size) Update(x []float32, rate float64) {
	var sum float64
	for _, v := range x {
		sum += math.Abs(float64(v))
	}
	d.Mean += float32(rate) * (float32(sum/float64(len(x))) - d.Mean)
	d.Seen += float32(rate) * (1 - d.Seen)
}

// Scale is the unbiased average.
func (d *Size) Scale() float32 {
	if d.Mean <= 0 {
		return 1
	}
	return d.Mean / d.Seen
}
