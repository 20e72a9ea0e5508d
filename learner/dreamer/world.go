package dreamer

import (
	"math"

	"github.com/dreamfleet/dreamfleet/model"
)

// encodeOp is the encoder: parameters, observations → embeddings.
type encodeOp struct{ net *model.MLP }

func (o *encodeOp) Len() int { return o.net.Rows() * o.net.OutLen() }

func (o *encodeOp) Forward(in [][]float32, out []float32) error {
	o.net.Forward(in[0], model.Input{Vector: in[1]}, out)
	return nil
}

func (o *encodeOp) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	clear(din[1]) // nil, but in tests
	o.net.Backward(dout, din[0], din[1], nil)
	return nil
}

// features is the vector in which the RSSM hands its states to the graph:
// deterministic states, dense stochastic states and posterior logits of all
// rows, one section after the other. states is the same with class indices,
// which is what operators read: a one-hot product is a sum of weight rows.
type features struct {
	cfg    model.Config
	rows   int
	states model.States
	logits []float32 // as of the last Forward
	grad   []float32 // what the operators that share them add their gradients to
}

func newFeatures(c model.Config, rows int) *features {
	f := &features{cfg: c, rows: rows, states: model.NewStates(c, rows)}
	f.grad = make([]float32, f.len())
	return f
}

func (f *features) len() int { return f.rows * (f.cfg.FeatLen() + f.cfg.LogitsLen()) }

// sections splits a vector of features, or its gradient.
func (f *features) sections(x []float32) (deter, stoch, logits []float32) {
	d, z := f.rows*f.cfg.Deter, f.rows*f.cfg.StochLen()
	return x[:d], x[d : d+z], x[d+z:]
}

// observeOp rolls the RSSM along the batch: parameters, embeddings → features.
type observeOp struct {
	net  *model.Observer
	feat *features
	seq  *model.Sequences
}

func (o *observeOp) Len() int { return o.feat.len() }

func (o *observeOp) Forward(in [][]float32, out []float32) error {
	deter, stoch, logits := o.feat.sections(out)
	o.feat.states.Deter, o.feat.logits = deter, logits
	o.net.Forward(in[0], in[1], o.seq, o.feat.states, logits)
	o.feat.states.Stoch.DenseTo(stoch, o.feat.cfg)
	return nil
}

func (o *observeOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	ddeter, dstoch, dlogits := o.feat.sections(dout)
	o.net.Backward(ddeter, dstoch, dlogits, din[0], din[1])
	return nil
}

// shareOp lets several operators read the features: features → a token, of length
// one, that they take in place of the features themselves. Gorgonia would add up
// the gradients of a vector that several read one after the other, on one thread,
// and each of them would have to fill the sections that it does not read: an
// eighth of a step of the preset small. So they add to one gradient, and the token's own
// gradient says only that they have.
type shareOp struct{ feat *features }

func (o *shareOp) Len() int { return 1 }

func (o *shareOp) Forward(_ [][]float32, out []float32) error {
	clear(o.feat.grad)
	out[0] = 0
	return nil
}

func (o *shareOp) Backward(_ [][]float32, _, _ []float32, din [][]float32) error {
	copy(din[0], o.feat.grad)
	return nil
}

// headOp is a head on the replayed states: parameters, shared features → outputs.
type headOp struct {
	net  *model.MLP
	feat *features
}

func (o *headOp) Len() int { return o.net.Rows() * o.net.OutLen() }

func (o *headOp) Forward(in [][]float32, out []float32) error {
	o.net.Forward(in[0], model.Input{States: o.feat.states}, out)
	return nil
}

func (o *headOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	din[1][0] = 0
	ddeter, dstoch, _ := o.feat.sections(o.feat.grad)
	o.net.Backward(dout, din[0], ddeter, dstoch)
	return nil
}

// klOp is dynamics and representation loss: shared features, prior logits → their
// weighted mean. With sg the stop-gradient and [z]₊ = max(free, z):
//
//	1.0·[KL(sg(posterior) ‖ prior)]₊ + 0.1·[KL(posterior ‖ sg(prior))]₊
//
// (DreamerV3, eq. 3).
type klOp struct {
	kl          *model.KL
	feat        *features
	free        float64
	rows        []float64
	post, prior []float32 // weights of the rows' gradients

	mean float64 // KL of the last Forward, before free nats
}

func (o *klOp) Len() int { return 1 }

func (o *klOp) Forward(in [][]float32, out []float32) error {
	o.kl.Rows(o.rows, o.feat.logits, in[1])
	var sum, clipped float64
	for _, k := range o.rows {
		sum += k
		clipped += max(o.free, k)
	}
	n := float64(len(o.rows))
	o.mean = sum / n
	out[0] = float32((dynamicsWeight + representationWeight) * clipped / n)
	return nil
}

func (o *klOp) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	for r, k := range o.rows {
		w := dout[0] / float32(len(o.rows))
		if k <= o.free {
			w = 0
		}
		o.post[r], o.prior[r] = representationWeight*w, dynamicsWeight*w
	}
	din[0][0] = 0
	clear(din[1])
	_, _, dlogits := o.feat.sections(o.feat.grad)
	o.kl.Back(dlogits, din[1], o.feat.logits, in[1], o.post, o.prior)
	return nil
}

// squaredOp is the reconstruction loss in symlog space: the squared distance
// from the symlogged observations, summed over their values and averaged over
// rows (DreamerV3, eq. 9).
type squaredOp struct {
	target []float32
	rows   int
}

func (o *squaredOp) Len() int { return 1 }

func (o *squaredOp) Forward(in [][]float32, out []float32) error {
	var sum float64
	for i, x := range in[0] {
		d := float64(x - o.target[i])
		sum += d * d
	}
	out[0] = float32(sum / float64(o.rows))
	return nil
}

func (o *squaredOp) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	s := 2 * dout[0] / float32(o.rows)
	for i, x := range in[0] {
		din[0][i] = s * (x - o.target[i])
	}
	return nil
}

// twoHotOp is the cross-entropy with two-hot targets, a weighted mean over
// rows (DreamerV3, eq. 10). Each row may have several targets, one after the
// other in targets; rows beyond them have no loss.
type twoHotOp struct {
	dist    *model.TwoHot
	targets [][]float32
	weights []float32 // for each row, or nil: all one
	count   int       // what the sum is divided by
	first   int       // row of the first target
	probs   []float32
}

func (o *twoHotOp) Len() int { return 1 }

func (o *twoHotOp) weight(r int) float32 {
	if o.weights == nil {
		return 1
	}
	return o.weights[r]
}

func (o *twoHotOp) Forward(in [][]float32, out []float32) error {
	n := len(o.dist.Bins)
	rows := len(o.targets[0])
	logits := in[0][o.first*n : (o.first+rows)*n]
	o.dist.Probs(o.probs[:rows*n], logits)
	var sum float64
	for r := range rows {
		if w := o.weight(r); w != 0 {
			for _, target := range o.targets {
				sum += float64(w) * o.dist.Loss(logits[r*n:(r+1)*n], o.probs[r*n:(r+1)*n], target[r])
			}
		}
	}
	out[0] = float32(sum / float64(o.count))
	return nil
}

func (o *twoHotOp) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	n := len(o.dist.Bins)
	rows := len(o.targets[0])
	clear(din[0])
	d := din[0][o.first*n:]
	for r := range rows {
		w := o.weight(r) * dout[0] / float32(o.count)
		if w == 0 {
			continue
		}
		for _, target := range o.targets {
			o.dist.LossBack(d[r*n:(r+1)*n], o.probs[r*n:(r+1)*n], target[r], w)
		}
	}
	return nil
}

// continueOp is the Bernoulli cross-entropy of the continuation head, whose
// target carries the discount: 1 - 1/horizon, or 0 where the return ends.
type continueOp struct{ target []float32 }

func (o *continueOp) Len() int { return 1 }

func (o *continueOp) Forward(in [][]float32, out []float32) error {
	var sum float64
	for i, x := range in[0] {
		// -t·log σ(x) - (1-t)·log σ(-x) = softplus(x) - t·x
		sum += softplus(float64(x)) - float64(o.target[i])*float64(x)
	}
	out[0] = float32(sum / float64(len(o.target)))
	return nil
}

func (o *continueOp) Backward(in [][]float32, _, dout []float32, din [][]float32) error {
	s := dout[0] / float32(len(o.target))
	for i, x := range in[0] {
		din[0][i] = s * (sigmoid(x) - o.target[i])
	}
	return nil
}

func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

func sigmoid(x float32) float32 { return float32(1 / (1 + math.Exp(-float64(x)))) }

// totalOp is the weighted sum of the losses.
type totalOp struct{ weights []float32 }

func (o *totalOp) Len() int { return 1 }

func (o *totalOp) Forward(in [][]float32, out []float32) error {
	var sum float64
	for i, x := range in {
		sum += float64(o.weights[i]) * float64(x[0])
	}
	out[0] = float32(sum)
	return nil
}

func (o *totalOp) Backward(_ [][]float32, _, dout []float32, din [][]float32) error {
	for i := range din {
		din[i][0] = o.weights[i] * dout[0]
	}
	return nil
}
