package dreamer

import (
	"math"
	"strconv"

	"github.com/dreamfleet/dreamfleet/model"
)

// The reference: every network again, in float64, one row at a time, from the
// formulas in docs/formats.md alone. One-hot vectors are written out, nothing
// is fused, batched or reused, and no code is shared with package model.

type vec = []float64

// weights is parameters by tensor name, and for kernels their shapes.
type weights map[string]vec

func toWeights(tensors []model.Tensor) weights {
	w := weights{}
	for _, t := range tensors {
		w[t.Name] = widen(t.Data)
	}
	return w
}

func widen(x []float32) vec {
	y := make(vec, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func join(parts ...vec) vec {
	var all vec
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// linear is x·W + b, W of len(x) rows.
func (w weights) linear(name string, x vec) vec {
	kernel, bias := w[name+"/kernel"], w[name+"/bias"]
	y := append(vec(nil), bias...)
	if len(kernel) != len(x)*len(y) {
		panic("reference: shape of " + name)
	}
	for i, v := range x {
		for j := range y {
			y[j] += v * kernel[i*len(y)+j]
		}
	}
	return y
}

func normSiLU(x, scale vec) vec {
	var square float64
	for _, v := range x {
		square += v * v
	}
	inv := 1 / math.Sqrt(square/float64(len(x))+1e-4)
	y := make(vec, len(x))
	for i, v := range x {
		h := v * inv * scale[i]
		y[i] = h * logistic(h)
	}
	return y
}

// hidden is a linear map, RMS norm and SiLU.
func (w weights) hidden(name string, x vec) vec {
	return normSiLU(w.linear(name, x), w[name+"/scale"])
}

// mlp is the hidden layers of a module and its output layer, if it has one.
func (w weights) mlp(module string, x vec) vec {
	for i := 0; ; i++ {
		name := module + "/layer" + strconv.Itoa(i)
		if w[name+"/bias"] == nil {
			break
		}
		x = w.hidden(name, x)
	}
	if w[module+"/out/bias"] == nil {
		return x
	}
	return w.linear(module+"/out", x)
}

// prior is the prior's logits, given the latents of a row where it is autoregressive: each latent adds to
// the logits of those after it the row of its class.
func (w weights) prior(c model.Config, deter vec, z model.Latents, row int) vec {
	y := w.mlp("prior", deter)
	if !c.Autoregressive {
		return y
	}
	at := w["prior/joint/kernel"]
	for i := range c.Stoch {
		after := y[(i+1)*c.Classes:]
		k := int(z.Index[row*c.Stoch+i])
		for j := range after {
			after[j] += at[k*len(after)+j]
		}
		at = at[c.Classes*len(after):]
	}
	if len(at) > 0 {
		panic("reference: shape of prior/joint")
	}
	return y
}

// blockDiagonal adds x times a block-diagonal matrix to y.
func (w weights) blockDiagonal(y vec, name string, x vec, blocks int) {
	kernel := w[name+"/kernel"]
	n := len(x) / blocks
	for b := range blocks {
		for i := range n {
			for j := range n {
				y[b*n+j] += x[b*n+i] * kernel[(b*n+i)*n+j]
			}
		}
	}
}

// refState is one row's model state with its stochastic part written out.
type refState struct{ deter, stoch vec }

func (s refState) feat() vec { return join(s.deter, s.stoch) }

func oneHot(k, n int) vec {
	x := make(vec, n)
	if k >= 0 {
		x[k] = 1
	}
	return x
}

// core is the sequence model.
func (w weights) core(c model.Config, s refState, action int) vec {
	x := join(w.hidden("rssm/deter", s.deter), w.hidden("rssm/stoch", s.stoch), w.hidden("rssm/action", oneHot(action, c.Actions)))
	pre := w.linear("rssm/mix", x)
	w.blockDiagonal(pre, "rssm/mix_deter", s.deter, c.Blocks)
	y := normSiLU(pre, w["rssm/mix/scale"])
	gate := func(name string) vec {
		g := append(vec(nil), w["rssm/"+name+"/bias"]...)
		w.blockDiagonal(g, "rssm/"+name, y, c.Blocks)
		return g
	}
	return gru(s.deter, gate("reset"), gate("candidate"), gate("update"))
}

func gru(h, reset, candidate, update vec) vec {
	next := make(vec, len(h))
	for i := range h {
		c := math.Tanh(logistic(reset[i]) * candidate[i])
		u := logistic(update[i] - 1)
		next[i] = u*c + (1-u)*h[i]
	}
	return next
}

func (w weights) posterior(deter, embed vec) vec {
	return w.linear("rssm/posterior_out", w.hidden("rssm/posterior", join(deter, embed)))
}

func softmax(x vec) vec {
	top := math.Inf(-1)
	for _, v := range x {
		top = max(top, v)
	}
	p := make(vec, len(x))
	var sum float64
	for i, v := range x {
		p[i] = math.Exp(v - top)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// mixed is the class probabilities of all latents.
func mixed(c model.Config, logits vec) vec {
	var all vec
	for i := range c.Stoch {
		for _, p := range softmax(logits[i*c.Classes : (i+1)*c.Classes]) {
			all = append(all, (1-float64(c.Unimix))*p+float64(c.Unimix)/float64(c.Classes))
		}
	}
	return all
}

// gaussianStd is a Gaussian latent's deviation.
func gaussianStd(raw float64) float64 { return 2*logistic(raw/2) + 0.1 }

// freezer holds what stop-gradients hide: in the first pass hold remembers each
// vector, in later passes it returns the remembered ones in the same order.
type freezer struct {
	kept   []vec
	at     int
	replay bool
}

func (f *freezer) hold(x vec) vec {
	if f.replay {
		x = f.kept[f.at]
		f.at++
		return x
	}
	f.kept = append(f.kept, append(vec(nil), x...))
	return x
}

// again starts the next pass.
func (f *freezer) again() { f.at, f.replay = 0, true }

// sample is the stochastic state, differentiable: the one-hot sample plus the
// probabilities minus themselves without a gradient, or mean plus deviation
// times noise.
func (f *freezer) sample(c model.Config, logits vec, index []int32, noise []float32) vec {
	if c.Gaussian {
		n := c.StochLen()
		z := make(vec, n)
		for i := range z {
			z[i] = logits[i] + gaussianStd(logits[n+i])*float64(noise[i])
		}
		return z
	}
	p := mixed(c, logits)
	frozen := f.hold(p)
	var z vec
	for _, k := range index {
		z = append(z, oneHot(int(k), c.Classes)...)
	}
	for i := range z {
		z[i] += p[i] - frozen[i]
	}
	return z
}

// denseStoch writes row r of z out.
func denseStoch(c model.Config, z model.Latents, r int) vec {
	if c.Gaussian {
		return widen(z.Value[r*c.StochLen() : (r+1)*c.StochLen()])
	}
	var x vec
	for _, k := range z.Index[r*c.Stoch : (r+1)*c.Stoch] {
		x = append(x, oneHot(int(k), c.Classes)...)
	}
	return x
}

// observe rolls the RSSM along time-major sequences and returns each row's
// state and posterior logits. posterior holds the samples taken.
func (w weights) observe(c model.Config, embed []vec, seq *model.Sequences, posterior model.Latents, f *freezer) (states []refState, logits []vec) {
	batch := len(seq.Start.Deter) / c.Deter
	for r := range seq.First {
		var from refState
		if r < batch {
			from = refState{widen(seq.Start.Deter[r*c.Deter : (r+1)*c.Deter]), denseStoch(c, seq.Start.Stoch, r)}
		} else {
			from = states[r-batch]
		}
		action := int(seq.PrevAction[r])
		if seq.First[r] {
			from, action = refState{make(vec, c.Deter), make(vec, c.StochLen())}, -1
		}
		deter := w.core(c, from, action)
		l := w.posterior(deter, embed[r])
		var index []int32
		if !c.Gaussian {
			index = posterior.Index[r*c.Stoch : (r+1)*c.Stoch]
		}
		n := c.DrawLen()
		states = append(states, refState{deter, f.sample(c, l, index, seq.Draw[r*n:(r+1)*n])})
		logits = append(logits, l)
	}
	return states, logits
}

// divergence is KL(p ‖ q) of two rows of logits, in nats.
func divergence(c model.Config, p, q vec) float64 {
	var sum float64
	if c.Gaussian {
		n := c.StochLen()
		for i := range n {
			sp, sq, d := gaussianStd(p[n+i]), gaussianStd(q[n+i]), p[i]-q[i]
			sum += math.Log(sq/sp) + (sp*sp+d*d)/(2*sq*sq) - 0.5
		}
		return sum
	}
	pp, qq := mixed(c, p), mixed(c, q)
	for i := range pp {
		sum += pp[i] * (math.Log(pp[i]) - math.Log(qq[i]))
	}
	return sum
}

// klLoss is the mean over rows of both KL losses.
func klLoss(c model.Config, free float64, post, prior []vec, f *freezer) float64 {
	var sum float64
	for r := range post {
		dynamics := divergence(c, f.hold(post[r]), prior[r])
		representation := divergence(c, post[r], f.hold(prior[r]))
		sum += 1.0*max(free, dynamics) + 0.1*max(free, representation)
	}
	return sum / float64(len(post))
}

// bins are the two-hot bins: n values of symexp, equally spaced in [-20, 20].
func bins(n int) vec {
	b := make(vec, n)
	for i := range b {
		b[i] = symexp(-20 + 40*float64(i)/float64(n-1))
	}
	b[n/2] = 0
	return b
}

func symexp(x float64) float64 {
	if x < 0 {
		return 1 - math.Exp(-x)
	}
	return math.Exp(x) - 1
}

func symlog(x float64) float64 {
	if x < 0 {
		return -math.Log(1 - x)
	}
	return math.Log(1 + x)
}

// twoHotMean is the expected bin.
func twoHotMean(logits vec) float64 {
	var mean float64
	b := bins(len(logits))
	p := softmax(logits)
	for i := range p[:len(p)/2] {
		j := len(p) - 1 - i
		mean += (p[j] - p[i]) * b[j]
	}
	return mean
}

// twoHotLoss is the cross-entropy with the two-hot encoding of x.
func twoHotLoss(logits vec, x float64) float64 {
	b := bins(len(logits))
	target := make(vec, len(b))
	switch last := len(b) - 1; {
	case x <= b[0]:
		target[0] = 1
	case x >= b[last]:
		target[last] = 1
	default:
		k := 0
		for b[k+1] <= x {
			k++
		}
		target[k+1] = (x - b[k]) / (b[k+1] - b[k])
		target[k] = 1 - target[k+1]
	}
	var loss float64
	for i, p := range softmax(logits) {
		if target[i] > 0 {
			loss -= target[i] * math.Log(p)
		}
	}
	return loss
}

// policyInput is the model state's projection, which GRU and head read.
func (w weights) policyInput(s refState) vec { return w.hidden("actor/in", s.feat()) }

// policyGRU is the policy's state after a step.
func (w weights) policyGRU(in, state vec) vec {
	x := join(in, state)
	return gru(state, w.linear("actor/gru_reset", x), w.linear("actor/gru_candidate", x), w.linear("actor/gru_update", x))
}

// act is one step of the policy: logits and its state afterwards.
func (w weights) act(c model.Config, s refState, state vec) (logits, next vec) {
	in := w.policyInput(s)
	if c.Recurrent {
		next = w.policyGRU(in, state)
	}
	return w.mlp("actor", join(in, next)), next
}

// roll is the policy's state before each replayed step, without a gradient.
func (w weights) roll(c model.Config, states []refState, first []bool, start []float32, f *freezer) (before []vec) {
	n := c.PolicyState()
	batch := len(states)
	if n > 0 {
		batch = len(start) / n
	}
	var after []vec
	for i, s := range states {
		state := make(vec, n)
		switch {
		case first[i]:
		case i < batch:
			state = widen(start[i*n : (i+1)*n])
		default:
			state = after[i-batch]
		}
		before = append(before, f.hold(state))
		if c.Recurrent {
			after = append(after, w.policyGRU(w.policyInput(s), state))
		} else {
			after = append(after, nil)
		}
	}
	return before
}

// imagine rolls the policy h steps through the prior: states without a
// gradient, (h+1)·n rows, and logits with one, h·n rows. In the first pass it
// returns the class probabilities of the priors, too.
func (w weights) imagine(c model.Config, starts []refState, policy []vec, h int, action []int32, sampled model.Latents, noise []float32, f *freezer) (states []refState, logits, priors []vec) {
	n, d := len(starts), c.DrawLen()
	var after []vec
	for i := range (h + 1) * n {
		var s refState
		switch {
		case i < n:
			s = starts[i]
		case !f.replay:
			s.deter = w.core(c, states[i-n], int(action[i-n]))
			prior := w.prior(c, s.deter, sampled, i)
			if c.Gaussian {
				s.stoch = f.sample(c, prior, nil, noise[(i-n)*d:(i-n+1)*d])
			} else {
				s.stoch = denseStoch(c, sampled, i)
				priors = append(priors, mixed(c, prior))
			}
		}
		states = append(states, refState{f.hold(s.deter), f.hold(s.stoch)})
		if i < h*n {
			state := policy[i%n]
			if i >= n {
				state = after[i-n]
			}
			l, next := w.act(c, states[i], state)
			logits, after = append(logits, l), append(after, next)
		}
	}
	return states, logits, priors
}

// actionProbs is the softmax over the allowed actions with unimix over them.
func actionProbs(c model.Config, logits vec, mask []bool) vec {
	var allowed vec
	for i, ok := range mask {
		if ok {
			allowed = append(allowed, logits[i])
		}
	}
	soft := softmax(allowed)
	p := make(vec, len(logits))
	for i, ok := range mask {
		if ok {
			p[i] = (1-float64(c.Unimix))*soft[0] + float64(c.Unimix)/float64(len(allowed))
			soft = soft[1:]
		}
	}
	return p
}

// returnsFrom is the recursion of the lambda-return, from step t of one column.
func returnsFrom(t int, reward, live, boot vec, cut []bool, lambda float64) float64 {
	if t == len(reward)-1 {
		return boot[t]
	}
	next := (1-lambda)*boot[t+1] + lambda*returnsFrom(t+1, reward, live, boot, cut, lambda)
	if cut != nil && cut[t+1] {
		next = boot[t+1]
	}
	return reward[t+1] + live[t+1]*next
}
