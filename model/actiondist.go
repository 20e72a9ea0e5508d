package model

import (
	"math"

	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// ActionDist is a distribution over actions: the softmax over the allowed ones,
// mixed with unimix of the uniform distribution over them.
type ActionDist struct {
	Actions int
	Unimix  float32
}

// Dist is the distribution of the policy's actions.
func (c Config) Dist() ActionDist { return ActionDist{c.Actions, c.Unimix} }

// masked is the logit of an action that is not allowed.
const masked = -1e30

// Probs writes the action probabilities of each row. mask may be nil, all
// allowed; a row with no allowed action is treated as all allowed. soft gets the
// softmax before mixing.
func (c ActionDist) Probs(p, soft, logits []float32, mask []bool) {
	a := c.Actions
	copy(soft, logits)
	rows := len(logits) / a
	if mask != nil {
		for r := range rows {
			m := mask[r*a : (r+1)*a]
			if allowed(m) == 0 {
				continue
			}
			for i, ok := range m {
				if !ok {
					soft[r*a+i] = masked
				}
			}
		}
	}
	kernel.Softmax(soft, soft, rows, a)
	for r := range rows {
		n := a
		var m []bool
		if mask != nil {
			m = mask[r*a : (r+1)*a]
			if k := allowed(m); k > 0 {
				n = k
			} else {
				m = nil
			}
		}
		mix := c.Unimix / float32(n)
		for i := range a {
			if m != nil && !m[i] {
				p[r*a+i] = 0
				continue
			}
			p[r*a+i] = (1-c.Unimix)*soft[r*a+i] + mix
		}
	}
}

func allowed(mask []bool) int {
	n := 0
	for _, ok := range mask {
		if ok {
			n++
		}
	}
	return n
}

// LogitsBack adds to dlogits the gradient of the logits given dp, that of the
// probabilities of Probs.
func (c ActionDist) LogitsBack(dlogits, dp, soft []float32) {
	rows := len(dp) / c.Actions
	for r := range rows {
		s := soft[r*c.Actions : (r+1)*c.Actions]
		d := dp[r*c.Actions : (r+1)*c.Actions]
		var dot float64
		for i, v := range s {
			dot += float64(v) * float64(d[i])
		}
		for i, v := range s {
			dlogits[r*c.Actions+i] += (1 - c.Unimix) * v * (d[i] - float32(dot))
		}
	}
}

// Entropy of one row of probabilities, in nats.
func Entropy(p []float32) float64 {
	var h float64
	for _, v := range p {
		if v > 0 {
			h -= float64(v) * math.Log(float64(v))
		}
	}
	return h
}
