package model

import (
	"math"

	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// Latents holds the stochastic states of some rows: for categoricals the
// class of each latent, Stoch indices a row, where -1 stands for the empty
// state before a trial; for a Gaussian StochLen values a row.
type Latents struct {
	Index []int32
	Value []float32
}

// States holds model states: deterministic and stochastic state of some rows.
type States struct {
	Deter []float32 // rows × Config.Deter
	Stoch Latents
}

// NewStates returns the empty state in every row.
func NewStates(c Config, rows int) States {
	return States{Deter: make([]float32, rows*c.Deter), Stoch: newLatents(&c, rows)}
}

func newLatents(c *Config, rows int) Latents {
	if c.Gaussian {
		return Latents{Value: make([]float32, rows*c.StochLen())}
	}
	z := Latents{Index: make([]int32, rows*c.Stoch)}
	z.clear()
	return z
}

func (z Latents) clear() {
	for i := range z.Index {
		z.Index[i] = -1
	}
	clear(z.Value)
}

func (z Latents) rows(c *Config, lo, hi int) Latents {
	if c.Gaussian {
		w := c.StochLen()
		return Latents{Value: z.Value[lo*w : hi*w]}
	}
	return Latents{Index: z.Index[lo*c.Stoch : hi*c.Stoch]}
}

func (z Latents) copy(from Latents) {
	copy(z.Index, from.Index)
	copy(z.Value, from.Value)
}

// Rows is the view of rows [lo, hi).
func (s States) Rows(c Config, lo, hi int) States {
	return States{Deter: s.Deter[lo*c.Deter : hi*c.Deter], Stoch: s.Stoch.rows(&c, lo, hi)}
}

// Copy copies the states of from into s.
func (s States) Copy(from States) {
	copy(s.Deter, from.Deter)
	s.Stoch.copy(from.Stoch)
}

// DenseTo writes the stochastic states as StochLen values a row: one-hot
// vectors, all zero for the empty state, or the Gaussian sample.
func (z Latents) DenseTo(dst []float32, c Config) {
	if c.Gaussian {
		copy(dst, z.Value)
		return
	}
	clear(dst)
	for i, k := range z.Index {
		if k >= 0 {
			dst[i*c.Classes+int(k)] = 1
		}
	}
}

// Gaussian scales are 2·sigmoid(raw/2) + 0.1, as in DreamerV2: one at raw = 0,
// never below a tenth.
const gaussianMinStd = 0.1

func gaussianStd(raw float32) (std, sig float32) {
	s := float32(1 / (1 + math.Exp(-float64(raw)/2)))
	return 2*s + gaussianMinStd, s
}

// sample draws the stochastic state of each row from its logits, using one
// number of draw for each latent: a uniform one that picks the class by the
// cumulative distribution, or a normal one that scales the deviation. soft is
// scratch of the size of logits; for categoricals it holds the softmax before
// mixing afterwards, which the backward step needs.
func (c *Config) sample(z Latents, soft, logits, draw []float32) {
	w := c.StochLen()
	if c.Gaussian {
		for r := 0; r*w < len(draw); r++ {
			mean, raw := logits[2*r*w:(2*r+1)*w], logits[(2*r+1)*w:(2*r+2)*w]
			value, eps := z.Value[r*w:(r+1)*w], draw[r*w:(r+1)*w]
			for i, m := range mean {
				std, _ := gaussianStd(raw[i])
				value[i] = m + std*eps[i]
			}
		}
		return
	}
	n := len(logits) / c.Classes
	kernel.Softmax(soft, logits, n, c.Classes)
	mix, keep := c.Unimix/float32(c.Classes), 1-c.Unimix
	for i := range n {
		z.Index[i] = pick(soft[i*c.Classes:(i+1)*c.Classes], draw[i], keep, mix)
	}
}

// samplePrior is sample for what the output layer of a prior wrote.
func (c *Config) samplePrior(p *mlp, z Latents, soft, logits, draw []float32) {
	if p.joint != nil {
		p.joint.sample(c, z.Index, soft, logits, draw)
		return
	}
	c.sample(z, soft, logits, draw)
}

// pick returns the first class at which the cumulative probability exceeds u,
// and the last possible one should rounding leave the sum below u.
func pick(p []float32, u, keep, mix float32) int32 {
	var sum float32
	last := int32(0)
	for k, v := range p {
		q := keep*v + mix
		if q > 0 {
			last = int32(k)
		}
		sum += q
		if u < sum {
			return int32(k)
		}
	}
	return last
}

// sampleBack adds to dlogits the gradient that reaches them through a sample
// whose dense form has gradient dz. Categoricals are straight-through: the
// sample's gradient is taken to be that of the mixed probabilities (DreamerV3,
// section "World model learning"). Gaussians are reparameterised.
func (c *Config) sampleBack(dlogits, dz, soft, logits, draw, scratch []float32) {
	w := c.StochLen()
	if c.Gaussian {
		for r := 0; r*w < len(draw); r++ {
			raw := logits[(2*r+1)*w : (2*r+2)*w]
			dmean, draw2 := dlogits[2*r*w:(2*r+1)*w], dlogits[(2*r+1)*w:(2*r+2)*w]
			for i, g := range dz[r*w : (r+1)*w] {
				_, s := gaussianStd(raw[i])
				dmean[i] += g
				draw2[i] += g * draw[r*w+i] * s * (1 - s)
			}
		}
		return
	}
	scratch = scratch[:len(dz)]
	kernel.SoftmaxBackward(scratch, soft, dz, len(dz)/c.Classes, c.Classes)
	kernel.Axpy(dlogits, 1-c.Unimix, scratch)
}
