package a2c

import (
	"math"

	"github.com/dreamfleet/dreamfleet/learner/returns"
	"github.com/dreamfleet/dreamfleet/model"
)

// rememberOp is the recurrent state after every step. Inputs are the memory's
// parameters and the observations.
type rememberOp struct {
	net  *model.Remember
	data *rollouts
	n    int // length of the output
}

func (o *rememberOp) Len() int { return o.n }

func (o *rememberOp) Forward(in [][]float32, out []float32) error {
	o.net.Forward(in[0], in[1], &o.data.memory, out)
	return nil
}

func (o *rememberOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	o.net.Backward(dout, din[0])
	return nil
}

// headOp is actor or critic on every step. Inputs are its parameters, the
// observations and, where there is one, the recurrent state.
type headOp struct{ net *model.MLP }

func (o *headOp) Len() int { return o.net.Rows() * o.net.OutLen() }

func (o *headOp) Forward(in [][]float32, out []float32) error {
	input := model.Input{Vector: in[1]}
	if len(in) > 2 {
		input.Memory = in[2]
	}
	o.net.Forward(in[0], input, out)
	return nil
}

func (o *headOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	var dmemory []float32
	if len(din) > 2 {
		dmemory = din[2]
		clear(dmemory)
	}
	o.net.Backward(dout, din[0], nil, dmemory)
	return nil
}

// units are what the critic learns in: moving averages of the returns and of
// their squares, free of the bias towards their start at zero.
type units struct {
	mean, square float32
	seen         float32 // weight that the averages have taken up
}

// leastDeviation keeps constant returns from being blown up.
const leastDeviation = 1e-3

// of returns the mean μ and the deviation σ: 0 and 1 before the first update.
func (u *units) of() (mean, deviation float32) {
	if u.seen == 0 {
		return 0, 1
	}
	m, s := float64(u.mean/u.seen), float64(u.square/u.seen)
	return float32(m), float32(math.Sqrt(max(s-m*m, leastDeviation*leastDeviation)))
}

// update moves the averages by rate towards the weighted means over x.
func (u *units) update(x, weight []float32, rate float64) {
	var sum, square, count float64
	for i, v := range x {
		w := float64(weight[i])
		sum += w * float64(v)
		square += w * float64(v) * float64(v)
		count += w
	}
	if count == 0 {
		return
	}
	r := float32(rate)
	u.mean += r * (float32(sum/count) - u.mean)
	u.square += r * (float32(square/count) - u.square)
	u.seen += r * (1 - u.seen)
}

// returnsOp forms returns and advantages from the critic's values, and moves
// their scales. Nothing is differentiable. Its output is the returns, for order.
type returnsOp struct {
	cfg   Config
	data  *rollouts
	units *units
	norm  *returns.Range
	size  *returns.Size

	value     []float32 // in the rewards' own units, T·B
	ret       []float32 // (T-1)·B, as all below
	advantage []float32
	target    []float32 // of the critic, in its units
	used      []float32 // advantages of the steps that count

	returnMean, advantageSize, explained float64
}

func newReturnsOp(c Config, d *rollouts) *returnsOp {
	n := (c.BatchLength - 1) * c.BatchSize
	return &returnsOp{
		cfg: c, data: d, units: &units{}, norm: &returns.Range{}, size: &returns.Size{},
		value: make([]float32, c.BatchLength*c.BatchSize),
		ret:   make([]float32, n), advantage: make([]float32, n), target: make([]float32, n), used: make([]float32, 0, n),
	}
}

func (o *returnsOp) Len() int { return len(o.ret) }

func (o *returnsOp) Forward(in [][]float32, out []float32) error {
	c, d := o.cfg, o.data
	mean, deviation := o.units.of()
	for i, v := range in[0] {
		o.value[i] = mean + deviation*v
	}
	returns.Lambda(o.ret, d.reward, d.live, o.value, d.last, float32(c.Lambda), c.BatchLength, c.BatchSize)
	o.used = o.used[:0]
	var sum, square, left float64
	for i, r := range o.ret {
		o.advantage[i] = r - o.value[i]
		if d.weight[i] == 0 {
			o.advantage[i] = 0
			continue
		}
		o.used = append(o.used, o.advantage[i])
		sum += float64(r)
		square += float64(r) * float64(r)
		left += float64(o.advantage[i]) * float64(o.advantage[i])
	}
	n := float64(d.count)
	o.returnMean = sum / n
	o.explained = 1 - left/max(square-sum*sum/n, 1e-12)

	o.units.update(o.ret, d.weight[:len(o.ret)], c.ReturnRate)
	if mean, deviation = o.units.of(); len(o.used) > 0 {
		o.size.Update(o.used, c.ReturnRate)
		if !c.ScaleByAdvantage {
			o.norm.Update(o.ret, c.ReturnRate)
		}
	}
	scale := o.norm.Scale()
	if c.ScaleByAdvantage {
		scale = o.size.Scale()
	}
	o.advantageSize = 0
	for i, r := range o.ret {
		o.target[i] = (r - mean) / deviation
		o.advantage[i] /= scale
		if c.ScaleByAdvantage {
			x := float64(o.advantage[i])
			o.advantage[i] = float32(math.Copysign(math.Log1p(math.Abs(x)), x))
		}
		o.advantageSize += math.Abs(float64(o.advantage[i])) / n
	}
	copy(out, o.ret)
	return nil
}

func (o *returnsOp) Backward([][]float32, []float32, []float32, [][]float32) error { return nil }

// actorOp is the policy gradient's loss with an entropy bonus, a mean over the
// steps that count:
//
//	-(Â·log π(a) + η·H(π))
//
// Inputs are the policy's logits and, for order, the returns.
type actorOp struct {
	dist             model.ActionDist
	data             *rollouts
	returns          *returnsOp
	eta              float64 // the entropy's weight at this update
	probs, soft, log []float32
	dp               []float32

	entropy float64
}

func newActorOp(c Config, d *rollouts, r *returnsOp) *actorOp {
	n := (c.BatchLength - 1) * c.BatchSize * c.Model.Actions
	return &actorOp{
		dist: c.Model.Dist(), data: d, returns: r,
		probs: make([]float32, n), soft: make([]float32, n), log: make([]float32, n), dp: make([]float32, n),
	}
}

func (o *actorOp) Len() int { return 1 }

func (o *actorOp) Forward(in [][]float32, out []float32) error {
	n, a := len(o.probs), o.dist.Actions
	o.dist.Probs(o.probs, o.soft, in[0][:n], o.data.mask[:n])
	var sum, entropy float64
	for i := range n / a {
		w := float64(o.data.weight[i])
		if w == 0 {
			continue
		}
		var h float64
		for k, p := range o.probs[i*a : (i+1)*a] {
			if p > 0 {
				l := math.Log(float64(p))
				o.log[i*a+k] = float32(l)
				h -= float64(p) * l
			}
		}
		entropy += w * h
		sum -= w * (float64(o.returns.advantage[i])*float64(o.log[i*a+int(o.data.action[i])]) + o.eta*h)
	}
	o.entropy = entropy / float64(o.data.count)
	out[0] = float32(sum / float64(o.data.count))
	return nil
}

func (o *actorOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	a, eta := o.dist.Actions, float32(o.eta)
	clear(o.dp)
	for i := range len(o.dp) / a {
		w := dout[0] * o.data.weight[i] / o.data.count
		if w == 0 {
			continue
		}
		for k := i * a; k < (i+1)*a; k++ {
			if o.probs[k] > 0 {
				o.dp[k] = w * eta * (o.log[k] + 1)
			}
		}
		k := i*a + int(o.data.action[i])
		o.dp[k] -= w * o.returns.advantage[i] / o.probs[k]
	}
	clear(din[0])
	o.dist.LogitsBack(din[0][:len(o.dp)], o.dp, o.soft)
	return nil
}

// criticOp is half the squared distance of the values from the returns, in the
// critic's units, a mean over the steps that count. Inputs are the values and,
// for order, the returns.
type criticOp struct {
	data   *rollouts
	target []float32
}

func (o *criticOp) Len() int { return 1 }

func (o *criticOp) Forward(in [][]float32, out []float32) error {
	var sum float64
	for i, target := range o.target {
		d := float64(in[0][i] - target)
		sum += float64(o.data.weight[i]) * d * d / 2
	}
	out[0] = float32(sum / float64(o.data.count))
	return nil
}

func (o *criticOp) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	clear(din[0])
	for i, target := range o.target {
		din[0][i] = dout[0] * o.data.weight[i] / o.data.count * (in[0][i] - target)
	}
	return nil
}

// totalOp is the sum of the losses.
type totalOp struct{}

func (totalOp) Len() int { return 1 }

func (totalOp) Forward(in [][]float32, out []float32) error {
	out[0] = in[0][0] + in[1][0]
	return nil
}

func (totalOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	din[0][0], din[1][0] = dout[0], dout[0]
	return nil
}
