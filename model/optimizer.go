package model

import (
	"math"

	"github.com/dreamfleet/dreamfleet/model/internal/kernel"
)

// Optimizer is DreamerV3's: adaptive gradient clipping of each tensor, then
// LaProp, which scales by the root of the mean square first and smooths with
// momentum afterwards:
//
//	g ← g · min(1, clip·max(1e-3, ‖p‖) / ‖g‖)     (AGC, for each tensor)
//	v ← β₂v + (1-β₂)g²      u = g / (√(v/(1-β₂ᵗ)) + ε)
//	m ← β₁m + (1-β₁)u       p ← p - lr·m/(1-β₁ᵗ)
//
// with β₁ = 0.9, β₂ = 0.999, ε = 1e-20 (DreamerV3, appendix "Optimizer";
// LaProp is Ziyin et al. 2020, AGC is Brock et al. 2021).
type Optimizer struct {
	Clip float64   // AGC's clipping factor; 0 clips nothing
	M, V []float32 // moments, as Params.Data
	Step int64     // updates made

	params *Params
	pool   *Pool
	chunks []chunk
	scale  []float32 // AGC's factor for each tensor
	lr     []float32 // for each tensor
	norm2  []float64 // squared norms of gradient and parameters of each chunk
	sum2   []float64 // of each tensor
	grads  [][]float32

	c1, c2  float32
	normF   func(thread, i int)
	updateF func(thread, i int)
}

// chunk is a part of a tensor: its values in Params.Data, and where the gradient
// of the first lies in that of its module.
type chunk struct{ tensor, lo, hi, module, at int }

func (o *Optimizer) grad(c chunk) []float32 { return o.grads[c.module][c.at : c.at+c.hi-c.lo] }

const (
	beta1        = 0.9
	beta2        = 0.999
	optimizerEps = 1e-20
	minNorm      = 1e-3 // AGC lets a zero tensor grow
	chunkLen     = 1 << 14
)

// NewOptimizer makes the optimiser of all tensors of p.
func NewOptimizer(p *Params, clip float64, pool *Pool) *Optimizer {
	o := &Optimizer{
		Clip: clip, M: make([]float32, len(p.Data)), V: make([]float32, len(p.Data)),
		params: p, pool: pool,
	}
	at, tensor := 0, 0
	for m, module := range p.Modules {
		begin := at
		for _, t := range module.Tensors {
			n := len(t.Data)
			for lo := 0; lo < n; lo += chunkLen {
				o.chunks = append(o.chunks, chunk{tensor, at + lo, at + min(n, lo+chunkLen), m, at + lo - begin})
			}
			at += n
			tensor++
		}
	}
	n := tensor
	o.scale, o.lr = make([]float32, n), make([]float32, n)
	o.norm2, o.sum2 = make([]float64, 2*len(o.chunks)), make([]float64, 2*n)
	o.normF, o.updateF = o.norms, o.update
	return o
}

// Update makes one step. grads has the gradient of each module, laid out as its
// Data; rate gives the learning rate of a module. It returns the norm of the gradient before
// clipping. A gradient that is not finite changes nothing and returns a norm
// that is not finite.
func (o *Optimizer) Update(grads [][]float32, rate func(module string) float64) float64 {
	o.grads = grads
	o.pool.Deal(len(o.chunks), o.normF)

	clear(o.sum2)
	g2, p2 := o.sum2[:len(o.scale)], o.sum2[len(o.scale):]
	var total float64
	for i, c := range o.chunks {
		g2[c.tensor] += o.norm2[2*i]
		p2[c.tensor] += o.norm2[2*i+1]
		total += o.norm2[2*i]
	}
	if math.IsNaN(total) || math.IsInf(total, 0) {
		return total
	}
	for i := range o.scale {
		o.scale[i] = 1
		if o.Clip == 0 {
			continue
		}
		limit := o.Clip * max(minNorm, math.Sqrt(p2[i]))
		o.scale[i] = float32(1 / max(1, math.Sqrt(g2[i])/limit))
	}
	i := 0
	for _, m := range o.params.Modules {
		lr := float32(rate(m.Name))
		for range m.Tensors {
			o.lr[i] = lr
			i++
		}
	}
	o.Step++
	o.c1 = float32(1 - math.Pow(beta1, float64(o.Step)))
	o.c2 = float32(1 - math.Pow(beta2, float64(o.Step)))
	o.pool.Deal(len(o.chunks), o.updateF)
	return math.Sqrt(total)
}

// Prefixes of the names of the moments' tensors.
const (
	Momentum   = "momentum/"
	MeanSquare = "mean_square/"
)

// Tensors are the parameters under their own names and then both moments: all
// that the optimiser changes, but for Step.
func (o *Optimizer) Tensors() []Tensor {
	params := o.params.Tensors()
	all := params
	for _, moment := range []struct {
		prefix string
		data   []float32
	}{{Momentum, o.M}, {MeanSquare, o.V}} {
		at := 0
		for _, t := range params {
			n := len(t.Data)
			all = append(all, Tensor{Name: moment.prefix + t.Name, Shape: t.Shape, Data: moment.data[at : at+n]})
			at += n
		}
	}
	return all
}

func (o *Optimizer) norms(_, i int) {
	c := o.chunks[i]
	o.norm2[2*i] = float64(kernel.SumSquares(o.grad(c)))
	o.norm2[2*i+1] = float64(kernel.SumSquares(o.params.Data[c.lo:c.hi]))
}

func (o *Optimizer) update(_, i int) {
	c := o.chunks[i]
	kernel.LaProp(o.params.Data[c.lo:c.hi], o.M[c.lo:c.hi], o.V[c.lo:c.hi], o.grad(c),
		o.lr[c.tensor], beta1, beta2, o.c1, o.c2, optimizerEps, o.scale[c.tensor])
}

// Average moves slow towards fast: slow += rate·(fast - slow).
func Average(slow, fast []float32, rate float32) {
	kernel.Scale(slow, 1-rate)
	kernel.Axpy(slow, rate, fast)
}
