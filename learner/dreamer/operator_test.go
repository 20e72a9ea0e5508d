package dreamer

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/learner/graph"
	"github.com/dreamfleet/dreamfleet/model"
)

// bench is an agent's batch with the operators' inputs before it.
type bench struct {
	*Agent
	rng      *rand.Rand
	rows     int
	observe  *observeOp
	embed    []float32
	features []float32
}

func newBench(t *testing.T, c Config) *bench {
	a := newAgent(t, c)
	b := &bench{Agent: a, rng: rand.New(rand.NewPCG(1, 1)), rows: c.BatchSize * c.BatchLength}
	b.observe = &observeOp{model.NewObserver(c.Model, c.BatchLength, c.BatchSize, b.pool), b.feat, &b.batch.sequence}
	b.load(t, 1)
	return b
}

// load computes the operators' inputs of a batch.
func (b *bench) load(t *testing.T, seed uint64) {
	t.Helper()
	if err := b.batch.load(b.cfg, newBatchOf(b.cfg, seed)); err != nil {
		t.Fatal(err)
	}
	b.batch.draw(b.cfg, b.Agent.rng)
	b.embed = run(t, &encodeOp{b.mlp(model.Encoder, b.rows)}, b.module(model.Encoder), b.batch.obs)
	b.features = run(t, b.observe, b.module(model.RSSM), b.embed)
}

// twice runs a test on two batches, so that what the first one leaves behind
// would show in the second.
func (b *bench) twice(t *testing.T, f func()) {
	for seed := range uint64(2) {
		b.load(t, 2-seed)
		f()
	}
}

func (b *bench) mlp(module string, rows int) *model.MLP {
	return model.NewMLP(b.cfg.Model, module, rows, b.pool)
}
func (b *bench) module(name string) []float32 { return b.params.Module(name).Data }

// cotangent is a random gradient of an output.
func (b *bench) cotangent(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(b.rng.NormFloat64())
	}
	return x
}

// gradient names the gradient of a module's tensors.
func (b *bench) gradient(module string, data []float32) []model.Tensor {
	return like(b.params.Module(module).Tensors, data)
}

// states is the replayed states by row, as the operators read them.
func (b *bench) states() []refState {
	var s []refState
	d := b.cfg.Model.Deter
	for r := range b.rows {
		s = append(s, refState{widen(b.feat.states.Deter[r*d : (r+1)*d]), denseStoch(b.cfg.Model, b.feat.states.Stoch, r)})
	}
	return s
}

func run(t *testing.T, op graph.Operator, in ...[]float32) []float32 {
	t.Helper()
	out := dirty(op.Len())
	if err := op.Forward(in, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// back returns the gradients of the inputs with the given indices. The memory
// that the operator writes them to holds garbage before, as it may in a graph.
func back(t *testing.T, op graph.Operator, out, dout []float32, in [][]float32, wanted ...int) [][]float32 {
	t.Helper()
	din := make([][]float32, len(in))
	for _, i := range wanted {
		din[i] = dirty(len(in[i]))
	}
	if err := op.Backward(in, out, slices.Clone(dout), din); err != nil {
		t.Fatal(err)
	}
	return din
}

// onFeatures is an operator that shares the features, its input with the given
// index, as a function of their vector.
type onFeatures struct {
	graph.Operator
	feat  *features
	input int
}

func (o onFeatures) Backward(in [][]float32, out, dout []float32, din [][]float32) error {
	clear(o.feat.grad)
	token := slices.Clone(din)
	token[o.input] = dirty(1)
	if err := o.Operator.Backward(in, out, dout, token); err != nil {
		return err
	}
	copy(din[o.input], o.feat.grad)
	return nil
}

func dirty(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = 1e6
	}
	return x
}

func dot(x vec, y []float32) float64 {
	if len(x) != len(y) {
		panic("reference: lengths differ")
	}
	var sum float64
	for i, v := range x {
		sum += v * float64(y[i])
	}
	return sum
}

func split(x vec, n int) (rows []vec) {
	for ; len(x) > 0; x = x[n:] {
		rows = append(rows, x[:n])
	}
	return rows
}

const input = "input"

func forEachVariant(t *testing.T, f func(t *testing.T, b *bench)) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) { f(t, newBench(t, c)) })
	}
}

func TestEncodeOperator(t *testing.T) {
	forEachVariant(t, func(t *testing.T, b *bench) {
		op := &encodeOp{b.mlp(model.Encoder, b.rows)}
		in := [][]float32{b.module(model.Encoder), b.batch.obs}
		out := run(t, op, in...)
		at := toWeights(b.params.Module(model.Encoder).Tensors)
		at[input] = widen(b.batch.obs)
		f := func(w weights) vec {
			var all vec
			for _, x := range split(w[input], b.cfg.Model.Obs) {
				all = append(all, w.mlp("encoder", x)...)
			}
			return all
		}
		near(t, "embeddings", out, f(at), 1e-5)
		dout := b.cotangent(len(out))
		din := back(t, op, out, dout, in, 0, 1)
		grads := append(b.gradient(model.Encoder, din[0]), model.Tensor{Name: input, Data: din[1]})
		checkGradients(t, func(w weights) float64 { return dot(f(w), dout) }, at, grads)
	})
}

// Scan over time with trial borders inside: backpropagation through time must
// stop there, and pass the straight-through or reparameterised samples.
func TestObserveOperator(t *testing.T) {
	forEachVariant(t, func(t *testing.T, b *bench) {
		b.twice(t, func() { checkObserve(t, b) })
	})
}

func checkObserve(t *testing.T, b *bench) {
	m := b.cfg.Model
	at := toWeights(b.params.Module(model.RSSM).Tensors)
	at[input] = widen(b.embed)
	var hold freezer
	f := func(w weights) vec {
		states, logits := w.observe(m, split(w[input], m.Units), &b.batch.sequence, b.feat.states.Stoch, &hold)
		var deter, stoch vec
		for _, s := range states {
			deter, stoch = append(deter, s.deter...), append(stoch, s.stoch...)
		}
		return join(deter, stoch, flat(logits))
	}
	near(t, "features", b.features, f(at), 1e-5)
	dout := b.cotangent(len(b.features))
	in := [][]float32{b.module(model.RSSM), b.embed}
	din := back(t, b.observe, b.features, dout, in, 0, 1)
	grads := append(b.gradient(model.RSSM, din[0]), model.Tensor{Name: input, Data: din[1]})
	checkGradients(t, func(w weights) float64 { hold.again(); return dot(f(w), dout) }, at, grads)
}

func TestHeadOperators(t *testing.T) {
	forEachVariant(t, func(t *testing.T, b *bench) {
		m := b.cfg.Model
		for _, name := range []string{model.Prior, model.Decoder, model.Reward, model.Continue, model.Critic} {
			op := onFeatures{&headOp{b.mlp(name, b.rows), b.feat}, b.feat, 1}
			in := [][]float32{b.module(name), b.features}
			out := run(t, op, in...)
			at := toWeights(b.params.Module(name).Tensors)
			deter, stoch, _ := b.feat.sections(b.features)
			at["deter"], at["stoch"] = widen(deter), widen(stoch)
			f := func(w weights) vec {
				var all vec
				stochs := split(w["stoch"], m.StochLen())
				for r, x := range split(w["deter"], m.Deter) {
					if name == model.Prior {
						all = append(all, w.prior(m, x, b.feat.states.Stoch, r)...)
						continue
					}
					all = append(all, w.mlp(name, join(x, stochs[r]))...)
				}
				return all
			}
			near(t, name, out, f(at), 1e-5)
			dout := b.cotangent(len(out))
			din := back(t, op, out, dout, in, 0, 1)
			ddeter, dstoch, dlogits := b.feat.sections(din[1])
			grads := append(b.gradient(name, din[0]), model.Tensor{Name: "deter", Data: ddeter}, model.Tensor{Name: "stoch", Data: dstoch})
			checkGradients(t, func(w weights) float64 { return dot(f(w), dout) }, at, grads)
			if slices.ContainsFunc(dlogits, func(g float32) bool { return g != 0 }) {
				t.Errorf("%s: a gradient reaches the posterior's logits without a sample", name)
			}
		}
	})
}

// What the operators that share the features have added up is the features'
// gradient, and nothing is left of it in the next step.
func TestShareOperator(t *testing.T) {
	b := newBench(t, variants()["recurrent"])
	op := &shareOp{b.feat}
	b.feat.grad[3] = 7
	token := run(t, op, b.features)
	if len(token) != 1 || token[0] != 0 {
		t.Errorf("the token is %v", token)
	}
	b.feat.grad[1] += 2
	b.feat.grad[1] += 3
	din := back(t, op, token, []float32{0}, [][]float32{b.features}, 0)[0]
	want := make([]float32, len(din))
	want[1] = 5
	if !slices.Equal(din, want) {
		t.Error("the features' gradient is not what was added up")
	}
}

func TestKLOperator(t *testing.T) {
	forEachVariant(t, func(t *testing.T, b *bench) {
		c, m := b.cfg, b.cfg.Model
		prior := run(t, &headOp{b.mlp(model.Prior, b.rows), b.feat}, b.module(model.Prior), b.features)
		in := [][]float32{b.features, prior}
		out := run(t, b.kl, in...)
		_, _, logits := b.feat.sections(b.features)
		at := weights{"post": widen(logits), "prior": widen(prior)}
		var hold freezer
		f := func(w weights) float64 {
			return klLoss(m, c.FreeNats, split(w["post"], m.LogitsLen()), split(w["prior"], m.LogitsLen()), &hold)
		}
		near(t, "KL", out, vec{f(at)}, 1e-5)
		above := 0
		for _, k := range b.kl.rows {
			if k > c.FreeNats {
				above++
			}
		}
		if above == 0 || above == b.rows && !m.Gaussian {
			t.Errorf("%d of %d rows above the free nats: the test needs some on both sides", above, b.rows)
		}
		din := back(t, onFeatures{b.kl, b.feat, 0}, out, []float32{1.5}, in, 0, 1)
		ddeter, dstoch, dlogits := b.feat.sections(din[0])
		grads := []model.Tensor{{Name: "post", Data: dlogits}, {Name: "prior", Data: din[1]}}
		checkGradients(t, func(w weights) float64 { hold.again(); return 1.5 * f(w) }, at, grads)
		for _, g := range append(ddeter, dstoch...) {
			if g != 0 {
				t.Fatal("the KL reaches states beside the logits")
			}
		}
	})
}

// checkLoss checks an operator of one input and one output.
func checkLoss(t *testing.T, op graph.Operator, in []float32, f func(x vec) float64) {
	t.Helper()
	out := run(t, op, in)
	near(t, "loss", out, vec{f(widen(in))}, 1e-5)
	din := back(t, op, out, []float32{0.7}, [][]float32{in}, 0)
	checkGradients(t, func(w weights) float64 { return 0.7 * f(w[input]) }, weights{input: widen(in)}, []model.Tensor{{Name: input, Data: din[0]}})
}

func TestLossOperators(t *testing.T) {
	b := newBench(t, variants()["recurrent"])
	const rows, n = 6, 21
	target, second, weight := b.cotangent(rows), b.cotangent(rows), []float32{1, 0.5, 0, 2, 0.1, 1}
	target[0], target[1], target[2] = 5e9, -5e9, 0
	second[3], second[4] = 100, -3000

	t.Run("squared", func(t *testing.T) {
		wanted := b.cotangent(rows * n)
		checkLoss(t, &squaredOp{wanted, rows}, b.cotangent(rows*n), func(x vec) float64 {
			var sum float64
			for i, v := range x {
				sum += (v - float64(wanted[i])) * (v - float64(wanted[i]))
			}
			return sum / rows
		})
	})
	t.Run("two-hot", func(t *testing.T) {
		op := &twoHotOp{dist: model.NewTwoHot(n), targets: [][]float32{target, second}, weights: weight, count: 5, first: 2, probs: make([]float32, rows*n)}
		checkLoss(t, op, b.cotangent((rows+3)*n), func(x vec) float64 {
			var sum float64
			for r, l := range split(x, n)[2 : 2+rows] {
				sum += float64(weight[r]) * (twoHotLoss(l, float64(target[r])) + twoHotLoss(l, float64(second[r])))
			}
			return sum / 5
		})
	})
	t.Run("two-hot without weights", func(t *testing.T) {
		op := &twoHotOp{dist: model.NewTwoHot(n), targets: [][]float32{target}, count: rows, probs: make([]float32, rows*n)}
		checkLoss(t, op, b.cotangent(rows*n), func(x vec) float64 {
			var sum float64
			for r, l := range split(x, n) {
				sum += twoHotLoss(l, float64(target[r]))
			}
			return sum / rows
		})
	})
	t.Run("continue", func(t *testing.T) {
		live := []float32{0.95, 0, 0.95, 0, 0.5, 1}
		logits := b.cotangent(rows)
		logits[2], logits[3] = 30, -30
		checkLoss(t, &continueOp{live}, logits, func(x vec) float64 {
			var sum float64
			for i, v := range x {
				l := float64(live[i])
				sum -= l*math.Log(logistic(v)) + (1-l)*math.Log(logistic(-v))
			}
			return sum / rows
		})
	})
	t.Run("total", func(t *testing.T) {
		op := &totalOp{[]float32{1, 0.3, 2}}
		in := [][]float32{{3}, {-5}, {7}}
		near(t, "total", run(t, op, in...), vec{3 - 1.5 + 14}, 1e-6)
		din := back(t, op, nil, []float32{10}, in, 0, 1, 2)
		near(t, "gradient", slices.Concat(din...), vec{10, 3, 20}, 1e-6)
		at := weights{"a": {3}, "b": {-5}, "c": {7}}
		checkGradients(t, func(w weights) float64 { return 10 * (w["a"][0] + 0.3*w["b"][0] + 2*w["c"][0]) }, at,
			[]model.Tensor{{Name: "a", Data: din[0]}, {Name: "b", Data: din[1]}, {Name: "c", Data: din[2]}})
	})
}

// The rollout through the prior, differentiable in the policy's parameters
// through its GRU, and the actor's loss on it.
func TestImagineAndActorOperators(t *testing.T) {
	forEachVariant(t, func(t *testing.T, b *bench) {
		b.twice(t, func() { checkImagineAndActor(t, b) })
	})
	// With more rollouts the blocks grow.
	t.Run("large blocks", func(t *testing.T) {
		c := variants()["blocks"]
		c.BatchLength, c.ImagineLast = 46, 45
		b := newBench(t, c)
		b.twice(t, func() { checkImagineAndActor(t, b) })
	})
}

func checkImagineAndActor(t *testing.T, b *bench) {
	c, m := b.cfg, b.cfg.Model
	k, h, each := c.starts(), c.ImagineLength, c.ImagineGroup
	n := k * c.BatchSize * each
	start := (c.BatchLength - k) * c.BatchSize
	op := &imagineOp{b.imaginer, b.feat, &b.batch.sequence, &b.batch.rollout, h * n * m.Actions}
	in := [][]float32{b.module(model.Actor), b.module(model.RSSM), b.module(model.Prior), b.features}
	logits := run(t, op, in...)

	at := toWeights(b.params.Tensors())
	var hold freezer
	var imagined []refState
	var priors []vec
	f := func(w weights) []vec {
		before := w.roll(m, b.states(), b.batch.sequence.First, b.batch.rollout.PolicyStart, &hold)
		var from []refState
		var policies []vec
		for i := range n {
			from, policies = append(from, b.states()[start+i/each]), append(policies, before[start+i/each])
		}
		states, logits, p := w.imagine(m, from, policies, h, b.imaginer.Actions, b.imaginer.States.Stoch, b.batch.rollout.Draw, &hold)
		if !hold.replay {
			imagined, priors = states, p
			near(t, "policy states", b.imaginer.PolicyStates(), flat(before), 1e-5)
		}
		return logits
	}
	want := f(at)
	near(t, "policy logits", logits, flat(want), 1e-4)
	var deter vec
	for _, s := range imagined {
		deter = append(deter, s.deter...)
	}
	near(t, "imagined states", b.imaginer.States.Deter, deter, 1e-5)
	for i, p := range priors {
		checkPriors(t, "imagined latents", m, p, b.batch.rollout.Draw[i*m.Stoch:(i+1)*m.Stoch], b.imaginer.States.Stoch.Index[(n+i)*m.Stoch:(n+i+1)*m.Stoch])
	}
	var probs []vec
	for i, l := range want {
		row := (start + i%n/each) * m.Actions
		probs = append(probs, actionProbs(m, l, b.batch.rollout.Mask[row:row+m.Actions]))
		checkPick(t, "imagined action", probs[i], b.batch.rollout.ActionDraw[i], b.imaginer.Actions[i])
	}
	near(t, "action probabilities", b.imaginer.Probs, flat(probs), 1e-5)

	dout := b.cotangent(len(logits))
	din := back(t, op, logits, dout, in, 0)
	checkGradients(t, func(w weights) float64 { hold.again(); return dot(flat(f(w)), dout) }, at, b.gradient(model.Actor, din[0]))

	// Reinforce with entropy, as a function of the logits.
	actor := &actorOp{cfg: c, net: b.imaginer, returns: b.returns, active: true, weight: c.Entropy, dp: make([]float32, len(logits))}
	copy(b.returns.advantage, b.cotangent(h*n))
	for i := range b.returns.weight {
		b.returns.weight[i] = b.rng.Float32()
	}
	checkLoss(t, actor, logits, func(x vec) float64 {
		var sum float64
		for i, l := range split(x, m.Actions) {
			row := (start + i%n/each) * m.Actions
			p := actionProbs(m, l, b.batch.rollout.Mask[row:row+m.Actions])
			var entropy float64
			for _, v := range p {
				if v > 0 {
					entropy -= v * math.Log(v)
				}
			}
			sum -= float64(b.returns.weight[i]) * (float64(b.returns.advantage[i])*math.Log(p[b.imaginer.Actions[i]]) + c.Entropy*entropy)
		}
		return sum / float64(h*n)
	})
	actor.active = false
	if loss := run(t, actor, logits); loss[0] != 0 {
		t.Errorf("loss of a waiting policy is %v", loss[0])
	}
}

// checkPick checks that a draw falls into the class that was taken, up to
// rounding.
func checkPick(t *testing.T, what string, p vec, draw float32, got int32) {
	t.Helper()
	var below float64
	for _, v := range p[:got] {
		below += v
	}
	if u := float64(draw); u < below-1e-5 || u > below+p[got]+1e-5 {
		t.Errorf("%s: class %d for a draw of %v, which covers [%v, %v)", what, got, u, below, below+p[got])
	}
}

// checkRace is checkPick for a class that was drawn by race: class k at the rate p_k/E_k, with E_k the quantile of an
// exponential that bits 16·(k mod 4) to 16·(k mod 4)+15 of a SplitMix64 number have. Rates that are nearly equal may
// change places with float32.
func checkRace(t *testing.T, what string, p vec, u float32, got int32) {
	t.Helper()
	rates := make(vec, len(p))
	for k, q := range p {
		x := (uint64(math.Float32bits(u))<<16 + uint64(k/4)) * 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
		at := x >> (16 * (k % 4)) & 0xffff
		rates[k] = -q / math.Log((float64(at)+0.5)/65536)
	}
	if most := slices.Max(rates); rates[got] < most*(1-1e-4) {
		t.Errorf("%s: class %d for a draw of %v at the rates %v", what, got, u, rates)
	}
}

// checkPriors is checkPicks for the prior's draws.
func checkPriors(t *testing.T, what string, m model.Config, p vec, draw []float32, got []int32) {
	t.Helper()
	if !m.Autoregressive {
		checkPicks(t, what, m, p, draw, got)
		return
	}
	for i, q := range split(p, m.Classes) {
		checkRace(t, what, q, draw[i], got[i])
	}
}

func checkPicks(t *testing.T, what string, m model.Config, p vec, draw []float32, got []int32) {
	t.Helper()
	for i, q := range split(p, m.Classes) {
		checkPick(t, what, q, draw[i], got[i])
	}
}

// A head on imagined states gives its parameters a gradient, and nothing else.
func TestDreamHeadOperator(t *testing.T) {
	forEachVariant(t, func(t *testing.T, b *bench) {
		const rows = 4
		states := b.feat.states.Rows(b.cfg.Model, 0, rows)
		op := &dreamHeadOp{b.mlp(model.Critic, rows), &states}
		in := [][]float32{b.module(model.Critic), nil}
		out := run(t, op, in...)
		at := toWeights(b.params.Module(model.Critic).Tensors)
		f := func(w weights) vec {
			var all vec
			for _, s := range b.states()[:rows] {
				all = append(all, w.mlp("critic", s.feat())...)
			}
			return all
		}
		near(t, "values", out, f(at), 1e-5)
		dout := b.cotangent(len(out))
		din := back(t, op, out, dout, in, 0)
		checkGradients(t, func(w weights) float64 { return dot(f(w), dout) }, at, b.gradient(model.Critic, din[0]))
	})
}

func TestReturnsOperator(t *testing.T) {
	c := variants()["recurrent"]
	c.Model.Bins = 21
	b := newBench(t, c)
	n, h := c.rollouts(), c.ImagineLength
	logits := func(rows int) []float32 {
		x := b.cotangent(rows * c.Model.Bins)
		for i := range x {
			x[i] -= 3 * float32(math.Abs(float64(i%c.Model.Bins-c.Model.Bins/2)))
		}
		return x
	}
	in := [][]float32{logits((h + 1) * n), b.cotangent((h + 1) * n), logits((h + 1) * n), logits((h + 1) * n), logits(b.rows)}
	b.norm.Low, b.norm.High, b.size.Mean, b.size.Seen = -3, 8, 2, 0.5
	step := refStepOf(b.Agent, widen(normaliser(b.Agent)))
	out := run(t, b.returns, in...)
	var heads [4][]vec
	for i := range heads {
		heads[i] = split(widen(in[i]), len(in[i])/((h+1)*n))
	}
	var r refResult
	step.behaviour(heads, &r)
	near(t, "output", out, r.returns, 1e-5)
	near(t, "advantages", b.returns.advantage, r.advantage, 1e-5)
	near(t, "weights", b.returns.weight, r.weight, 1e-5)
	near(t, "replayed returns", b.returns.replayRet, r.replayed, 1e-5)
	near(t, "slow values", b.returns.slow, r.slow, 1e-5)
	near(t, "normaliser", normaliser(b.Agent), r.norm, 1e-5)
	for i, last := range b.batch.last[(c.BatchLength-c.starts())*c.BatchSize:][:len(b.returns.replayWeight)] {
		if (b.returns.replayWeight[i] == 0) != last {
			t.Errorf("replayed row %d has weight %v, last step: %v", i, b.returns.replayWeight[i], last)
		}
	}
}
