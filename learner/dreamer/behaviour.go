package dreamer

import (
	"math"

	"github.com/dreamfleet/dreamfleet/learner/returns"
	"github.com/dreamfleet/dreamfleet/model"
)

// imagineOp rolls the policy through the world model: policy, RSSM and prior
// parameters, features → the policy's logits of the imagined steps. Only the
// policy's parameters get a gradient.
type imagineOp struct {
	net     *model.Imaginer
	feat    *features
	seq     *model.Sequences
	rollout *model.Rollout
	length  int
}

func (o *imagineOp) Len() int { return o.length }

func (o *imagineOp) Forward(in [][]float32, out []float32) error {
	o.net.Forward(in[0], in[1], in[2], o.feat.states, o.seq, o.rollout, out)
	return nil
}

func (o *imagineOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	o.net.Backward(dout, din[0])
	return nil
}

// dreamHeadOp is a head on the imagined states. Its second input is there for
// the order of execution alone.
type dreamHeadOp struct {
	net    *model.MLP
	states *model.States
}

func (o *dreamHeadOp) Len() int { return o.net.Rows() * o.net.OutLen() }

func (o *dreamHeadOp) Forward(in [][]float32, out []float32) error {
	o.net.Forward(in[0], model.Input{States: *o.states}, out)
	return nil
}

func (o *dreamHeadOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	o.net.Backward(dout, din[0], nil, nil)
	return nil
}

// returnsOp computes what actor and critic learn from, without a gradient:
// from the logits of reward, continuation, critic and slow critic on the
// imagined states and of the slow critic on the replayed ones it forms the
// lambda-returns, moves the return normaliser, and leaves targets, advantages
// and weights. Its output is the imagined returns.
type returnsOp struct {
	cfg   Config
	n     int // imagined rollouts
	dist  *model.TwoHot
	batch *batch
	norm  *returns.Range
	size  *returns.Size
	probs []float32

	reward, goes, value, slow []float32 // (H+1)·n
	ret, advantage, weight    []float32 // H·n

	// The replayed lambda-returns: K steps of each sequence.
	replaySlow                []float32 // K·B
	boot                      []float32 // K·B: the imagined return from each start
	replayRet, replayWeight   []float32 // (K-1)·B
	returnMean, advantageSize float64
	shared                    float64 // part of the advantages that the group's baseline took
}

func newReturnsOp(c Config, d *batch, dist *model.TwoHot, norm *returns.Range, size *returns.Size) *returnsOp {
	k := c.starts()
	n, h, b := c.rollouts(), c.ImagineLength, c.BatchSize
	f := func(n int) []float32 { return make([]float32, n) }
	return &returnsOp{
		cfg: c, n: n, dist: dist, batch: d, norm: norm, size: size, probs: f((h + 1) * n * c.Model.Bins),
		reward: f((h + 1) * n), goes: f((h + 1) * n), value: f((h + 1) * n), slow: f((h + 1) * n),
		ret: f(h * n), advantage: f(h * n), weight: f(h * n),
		replaySlow: f(k * b), boot: f(k * b),
		replayRet: f((k - 1) * b), replayWeight: f((k - 1) * b),
	}
}

func (o *returnsOp) Len() int { return len(o.ret) }

func (o *returnsOp) Forward(in [][]float32, out []float32) error {
	c, n, h := o.cfg, o.n, o.cfg.ImagineLength
	o.dist.Means(o.reward, o.probs, in[0])
	for i, x := range in[1] {
		o.goes[i] = sigmoid(x)
	}
	o.dist.Means(o.value, o.probs, in[2])
	o.dist.Means(o.slow, o.probs, in[3])
	returns.Lambda(o.ret, o.reward, o.goes, o.value, nil, float32(c.Lambda), h+1, n)
	o.norm.Update(o.ret, c.ReturnRate)
	for i, r := range o.ret {
		o.advantage[i] = r - o.value[i]
	}
	o.shared = 0
	if c.ImagineGroup > 1 {
		before, after := leaveOneOut(o.advantage, c.ImagineGroup)
		o.shared = 1 - after/before
	}
	o.size.Update(o.advantage, c.ReturnRate)
	scale := o.norm.Scale()
	if c.ScaleByAdvantage {
		scale = o.size.Scale()
	}
	var sum, size float64
	for i, r := range o.ret {
		o.advantage[i] /= scale
		if c.ScaleByAdvantage {
			x := float64(o.advantage[i])
			o.advantage[i] = float32(math.Copysign(math.Log1p(math.Abs(x)), x))
		}
		o.weight[i] = o.goes[i]
		if i >= n {
			o.weight[i] *= o.weight[i-n]
		}
		sum += float64(r)
		size += math.Abs(float64(o.advantage[i]))
	}
	o.returnMean, o.advantageSize = sum/float64(len(o.ret)), size/float64(len(o.ret))
	copy(out, o.ret)

	o.replay(in[4])
	return nil
}

// replay forms the targets of the critic on the last K replayed steps, with
// the imagined returns as bootstrap.
func (o *returnsOp) replay(slow []float32) {
	k, b, bins := o.cfg.starts(), o.cfg.BatchSize, o.cfg.Model.Bins
	at := (o.cfg.BatchLength - k) * b
	o.dist.Means(o.replaySlow, o.probs[:k*b*bins], slow[at*bins:(at+k*b)*bins])
	each := o.cfg.ImagineGroup
	for i := range o.boot {
		o.boot[i] = mean(o.ret[i*each : (i+1)*each])
	}
	returns.Lambda(o.replayRet, o.batch.reward[at:], o.batch.live[at:], o.boot, o.batch.last[at:], float32(o.cfg.Lambda), k, b)
	for i := range o.replayWeight {
		o.replayWeight[i] = 1
		if o.batch.last[at+i] {
			o.replayWeight[i] = 0
		}
	}
}

func (o *returnsOp) Backward([][]float32, []float32, []float32, [][]float32) error { return nil }

// actorOp is the Reinforce loss of the imagined actions with an entropy bonus,
// averaged over imagined steps (DreamerV3, eq. 6):
//
//	-w·(sg(A)·log π(a) + η·H(π))
//
// Inputs are the policy's logits and, for order, the returns.
type actorOp struct {
	cfg     Config
	net     *model.Imaginer
	returns *returnsOp
	active  bool    // false until the policy may learn
	weight  float64 // of the entropy, at this update
	dp      []float32

	entropy float64
}

func (o *actorOp) Len() int { return 1 }

func (o *actorOp) Forward(_ [][]float32, out []float32) error {
	a := o.cfg.Model.Actions
	var sum, entropy float64
	for i, action := range o.net.Actions {
		p := o.net.Probs[i*a : (i+1)*a]
		h := model.Entropy(p)
		entropy += h
		logp := math.Log(float64(p[action]))
		sum -= float64(o.returns.weight[i]) * (float64(o.returns.advantage[i])*logp + o.weight*h)
	}
	n := float64(len(o.net.Actions))
	o.entropy = entropy / n
	out[0] = 0
	if o.active {
		out[0] = float32(sum / n)
	}
	return nil
}

func (o *actorOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	clear(din[0])
	if !o.active {
		return nil
	}
	a := o.cfg.Model.Actions
	s := dout[0] / float32(len(o.net.Actions))
	eta := float32(o.weight)
	for i, action := range o.net.Actions {
		w := s * o.returns.weight[i]
		for k := range a {
			p := o.net.Probs[i*a+k]
			d := float32(0)
			if p > 0 {
				d = w * eta * (float32(math.Log(float64(p))) + 1)
			}
			if k == int(action) {
				d -= w * o.returns.advantage[i] / p
			}
			o.dp[i*a+k] = d
		}
	}
	o.cfg.Model.Dist().LogitsBack(din[0], o.dp, o.net.Soft)
	return nil
}
