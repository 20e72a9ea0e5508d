package dreamer

import (
	"math"
	"sort"

	"github.com/dreamfleet/dreamfleet/model"
)

// refStep is what a training step reads besides the parameters, time-major.
type refStep struct {
	cfg         Config
	obs         []float32 // as the environment gives them
	reward      []float32
	live        []float32
	last        []bool
	mask        []bool
	sequence    model.Sequences
	policyStart []float32
	priorDraw   []float32
	posterior   model.Latents // sampled, (T·B)
	imagined    model.Latents // sampled, (H+1)·N
	action      []int32       // sampled, H·N
	slow        weights       // the slow critic
	norm        vec           // before the step: percentiles, mean size of advantages, its weight
	actor       bool          // the policy learns
}

// refResult is what the first pass of a step leaves behind.
type refResult struct {
	states, imagined             []refState
	policyBefore                 []vec // policy state before each replayed step
	returns, advantage, weight   vec
	replayed, slow               vec
	norm                         vec
	posteriorProbs, priorProbs   []vec // of categorical latents, mixed
	actionProbs                  []vec
	entropy                      float64
	post, prior, decoded, logits []vec
}

// losses computes the loss terms in the order of lossNames. Everything that
// stop-gradients hide comes from f when f replays; r is filled in the first
// pass alone.
func (s *refStep) losses(w weights, f *freezer, r *refResult) []float64 {
	c, m := s.cfg, s.cfg.Model
	rows := len(s.reward)
	b := c.BatchSize
	k, h, each := c.starts(), c.ImagineLength, c.ImagineGroup
	n := k * b * each

	target := make([]vec, rows)
	embed := make([]vec, rows)
	for i := range rows {
		for _, v := range s.obs[i*m.Obs : (i+1)*m.Obs] {
			target[i] = append(target[i], symlog(float64(v)))
		}
		embed[i] = w.mlp("encoder", target[i])
	}
	states, post := w.observe(m, embed, &s.sequence, s.posterior, f)
	var prior, decoded, values, slowValues []vec
	var reconstruction, reward, goes float64
	for i, st := range states {
		prior = append(prior, w.prior(m, st.deter, s.posterior, i))
		decoded = append(decoded, w.mlp("decoder", st.feat()))
		for j, v := range decoded[i] {
			reconstruction += (v - target[i][j]) * (v - target[i][j])
		}
		reward += twoHotLoss(w.mlp("reward", st.feat()), float64(s.reward[i]))
		x, t := w.mlp("continue", st.feat())[0], float64(s.live[i])
		goes -= t*math.Log(logistic(x)) + (1-t)*math.Log(logistic(-x))
		values = append(values, w.mlp("critic", st.feat()))
		slowValues = append(slowValues, f.hold(f.slow(s, st)))
	}
	kl := klLoss(m, c.FreeNats, post, prior, f)

	at := (c.BatchLength - k) * b
	before := w.roll(m, states, s.sequence.First, s.policyStart, f)
	starts, policies := make([]refState, n), make([]vec, n)
	for i := range starts {
		from := at + i/each
		starts[i], policies[i] = refState{states[from].deter, denseStoch(m, s.posterior, from)}, before[from]
	}
	imagined, logits, priorProbs := w.imagine(m, starts, policies, h, s.action, s.imagined, s.priorDraw, f)
	critic := make([]vec, h*n)
	for i := range critic {
		critic[i] = w.mlp("critic", imagined[i].feat())
	}
	if !f.replay {
		var heads [4][]vec
		for _, st := range imagined {
			x := st.feat()
			for j, l := range []vec{w.mlp("reward", x), w.mlp("continue", x), w.mlp("critic", x), s.slow.mlp("critic", x)} {
				heads[j] = append(heads[j], l)
			}
		}
		s.behaviour(heads, r)
		r.priorProbs = priorProbs
		r.states, r.imagined, r.policyBefore, r.post, r.prior, r.decoded, r.logits = states, imagined, before, post, prior, decoded, logits
		for i := range states {
			if !m.Gaussian {
				r.posteriorProbs = append(r.posteriorProbs, mixed(m, post[i]))
			}
		}
	}
	ret, advantage, weight := f.hold(r.returns), f.hold(r.advantage), f.hold(r.weight)
	slow, replayed := f.hold(r.slow), f.hold(r.replayed)

	var actor, criticLoss, replay float64
	r.actionProbs, r.entropy = nil, 0
	for i := range critic {
		start := (at + i%n/each) * m.Actions
		p := actionProbs(m, logits[i], s.mask[start:start+m.Actions])
		var entropy float64
		for _, v := range p {
			if v > 0 {
				entropy -= v * math.Log(v)
			}
		}
		r.actionProbs = append(r.actionProbs, p)
		actor -= weight[i] * (advantage[i]*math.Log(p[s.action[i]]) + c.Entropy*entropy)
		criticLoss += weight[i] * (twoHotLoss(critic[i], ret[i]) + twoHotLoss(critic[i], slow[i]))
	}
	if !s.actor {
		actor = 0
	}
	for i := range (k - 1) * b {
		if !s.last[at+i] {
			replay += twoHotLoss(values[at+i], replayed[i]) + twoHotLoss(values[at+i], twoHotMean(slowValues[at+i]))
		}
	}
	all, dream := float64(rows), float64(h*n)
	return []float64{kl, reconstruction / all, reward / all, goes / all, actor / dream, criticLoss / dream, replay / float64((k-1)*b)}
}

// behaviour computes returns, advantages and weights from the logits of
// reward, continuation, critic and slow critic on the imagined states.
func (s *refStep) behaviour(heads [4][]vec, r *refResult) {
	c := s.cfg
	k, h, b, each := c.starts(), c.ImagineLength, c.BatchSize, c.ImagineGroup
	n := k * b * each
	var reward, goes, value vec
	for i := range heads[0] {
		reward = append(reward, twoHotMean(heads[0][i]))
		goes = append(goes, logistic(heads[1][i][0]))
		value = append(value, twoHotMean(heads[2][i]))
		r.slow = append(r.slow, twoHotMean(heads[3][i]))
	}
	column := func(x vec, i, n int) vec {
		var y vec
		for ; i < len(x); i += n {
			y = append(y, x[i])
		}
		return y
	}
	r.returns, r.weight, r.advantage = make(vec, h*n), make(vec, h*n), make(vec, h*n)
	for i := range n {
		product := 1.0
		for t := range h {
			r.returns[t*n+i] = returnsFrom(t, column(reward, i, n), column(goes, i, n), column(value, i, n), nil, c.Lambda)
			product *= goes[t*n+i]
			r.weight[t*n+i] = product
		}
	}
	sorted := append(vec(nil), r.returns...)
	sort.Float64s(sorted)
	alone := make(vec, len(r.returns))
	for i := range alone {
		alone[i] = r.returns[i] - value[i]
	}
	var size float64
	for i := range alone {
		r.advantage[i] = alone[i]
		for j := i / each * each; j < (i/each+1)*each; j++ {
			if j != i {
				r.advantage[i] -= alone[j] / float64(each-1)
			}
		}
		size += math.Abs(r.advantage[i]) / float64(len(alone))
	}
	r.norm = append(vec(nil), s.norm...)
	for i, to := range []float64{percentile(sorted, 5), percentile(sorted, 95), size, 1} {
		r.norm[i] += c.ReturnRate * (to - r.norm[i])
	}
	scale := max(1, r.norm[1]-r.norm[0])
	if c.ScaleByAdvantage {
		scale = r.norm[2] / r.norm[3]
	}
	for i := range r.advantage {
		r.advantage[i] /= scale
		if c.ScaleByAdvantage {
			r.advantage[i] = symlog(r.advantage[i])
		}
	}
	at := (c.BatchLength - k) * b
	boot := make(vec, k*b)
	for i := range n {
		boot[i/each] += r.returns[i] / float64(each)
	}
	r.replayed = make(vec, (k-1)*b)
	for i := range b {
		var cut []bool
		for t := range k {
			cut = append(cut, s.last[at+t*b+i])
		}
		for t := range k - 1 {
			r.replayed[t*b+i] = returnsFrom(t, column(widen(s.reward[at:]), i, b), column(widen(s.live[at:]), i, b), column(boot, i, b), cut, c.Lambda)
		}
	}
}

// percentile of sorted values, linear between the closest ranks.
func percentile(sorted vec, q float64) float64 {
	at := q / 100 * float64(len(sorted)-1)
	i := int(at)
	if i == len(sorted)-1 {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// slow is the slow critic's logits, needed in the first pass alone.
func (f *freezer) slow(s *refStep, st refState) vec {
	if f.replay {
		return nil
	}
	return s.slow.mlp("critic", st.feat())
}

// total is the weighted sum of the losses.
func (s *refStep) total(losses []float64) float64 {
	weights := []float64{1, s.cfg.Reconstruction, 1, 1, 1, 1, s.cfg.ReplayValue}
	var sum float64
	for i, l := range losses {
		sum += weights[i] * l
	}
	return sum
}
