package dreamer

import (
	"math"
	"slices"
)

// lambdaReturns writes the lambda-returns of rollouts of steps steps and n
// columns, row t·n + i (DreamerV3, eq. 7):
//
//	R_t = r_{t+1} + live_{t+1}·((1-λ_{t+1})·boot_{t+1} + λ_{t+1}·R_{t+1}),  R_last = boot_last
//
// reward, live and boot have steps rows, ret has one less. live is the
// discounted probability that the return goes on after arriving at a step, and
// cut, which may be nil, marks steps behind which the trajectory does not go
// on, where λ is taken to be zero.
func lambdaReturns(ret, reward, live, boot []float32, cut []bool, lambda float32, steps, n int) {
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

// percentiles keeps exponential moving averages of a low and a high
// percentile of the returns, whose distance scales the advantages (DreamerV3,
// section "Actor learning").
type percentiles struct {
	low, high float32
	sorted    []float32
}

// update moves the averages by rate towards the percentiles of x.
func (p *percentiles) update(x []float32, rate float64) {
	p.sorted = append(p.sorted[:0], x...)
	slices.Sort(p.sorted)
	p.low += float32(rate) * (quantile(p.sorted, returnLow) - p.low)
	p.high += float32(rate) * (quantile(p.sorted, returnHigh) - p.high)
}

// scale is the range by which advantages are divided, at least one, so that
// small returns are not blown up.
func (p *percentiles) scale() float32 { return max(returnLimit, p.high-p.low) }

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

// meanSize keeps an exponential moving average of the advantages' mean
// absolute value.
type meanSize struct {
	size float32
	seen float32 // weight that the average has taken up, against its bias towards zero
}

// update moves the average by rate towards the mean absolute value of x.
func (d *meanSize) update(x []float32, rate float64) {
	var sum float64
	for _, v := range x {
		sum += math.Abs(float64(v))
	}
	d.size += float32(rate) * (float32(sum/float64(len(x))) - d.size)
	d.seen += float32(rate) * (1 - d.seen)
}

// scale is the unbiased average.
func (d *meanSize) scale() float32 {
	if d.size <= 0 {
		return 1
	}
	return d.size / d.seen
}

// leaveOneOut subtracts from every value the mean of the others of its group,
// a baseline for rollouts from the same state that met the same chance (Mao et al. 2019, arXiv
// 1807.02264: what an input-driven environment's inputs do to the return is
// noise to the policy's gradient), and returns the sums of squares before and
// after.
func leaveOneOut(x []float32, group int) (before, after float64) {
	others := 1 / float32(group-1)
	for ; len(x) > 0; x = x[group:] {
		var sum float32
		for _, v := range x[:group] {
			sum += v
			before += float64(v) * float64(v)
		}
		for i, v := range x[:group] {
			x[i] = v - (sum-v)*others
			after += float64(x[i]) * float64(x[i])
		}
	}
	return before, after
}

func mean(x []float32) float32 {
	var sum float32
	for _, v := range x {
		sum += v
	}
	return sum / float32(len(x))
}
