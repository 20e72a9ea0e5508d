package dreamer

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dreamfleet/dreamfleet/learner/returns"
	"github.com/dreamfleet/dreamfleet/model"
)

// Tests of single equations of DreamerV3 (arXiv 2301.04104) by section; those
// that concern networks and distributions alone are in package model.

// World model learning: the dynamics loss trains the prior alone with weight
// 1.0, the representation loss the posterior alone with 0.1, and neither below
// one free nat.
func TestWorldModelLearningFreeNatsAndStopGradients(t *testing.T) {
	c := variants()["recurrent"].Model
	const rows = 2
	feat := newFeatures(c, rows)
	op := &klOp{
		kl: model.NewKL(c, rows), feat: feat, free: 1,
		rows: make([]float64, rows), post: make([]float32, rows), prior: make([]float32, rows),
	}
	n := c.LogitsLen()
	in := [][]float32{make([]float32, feat.len()), make([]float32, rows*n)}
	_, _, post := feat.sections(in[0])
	feat.logits = post
	for i := range c.Stoch { // row 0: far apart; row 1: a tenth of a nat
		post[i*c.Classes] = 6
		post[n+i*c.Classes] = 0.3
	}
	out := run(t, op, in...)
	if op.rows[0] < 1 || op.rows[1] > 1 || op.rows[1] < 0.01 {
		t.Fatalf("divergences %v: one must be above and one below a nat", op.rows)
	}
	near(t, "loss", out, vec{1.1 * (op.rows[0] + 1) / 2}, 1e-5)
	near(t, "reported divergence", []float32{float32(op.mean)}, vec{(op.rows[0] + op.rows[1]) / 2}, 1e-5)
	din := back(t, onFeatures{op, feat, 0}, out, []float32{1}, in, 0, 1)
	_, _, dpost := feat.sections(din[0])
	dprior := din[1]
	for i := range n {
		if dpost[n+i] != 0 || dprior[n+i] != 0 {
			t.Errorf("logit %d has a gradient below the free nats", i)
		}
	}
	// The slopes of KL/2 with respect to one side, the other held.
	for _, side := range []struct {
		name   string
		x, got []float32
		weight float64
	}{{"posterior", post, dpost, 0.1}, {"prior", in[1], dprior, 1}} {
		var want vec
		for i := range n {
			var slope float64
			for _, sign := range []float64{1, -1} {
				p, q := widen(post[:n]), widen(in[1][:n])
				if side.name == "posterior" {
					p[i] += sign * 1e-5
				} else {
					q[i] += sign * 1e-5
				}
				slope += sign * divergence(c, p, q) / 2e-5
			}
			want = append(want, side.weight*slope/2)
		}
		near(t, side.name, side.got[:n], want, 1e-4)
	}
}

// World model learning: the continuation's target carries the discount, and is
// zero where the return ends; a trial that was merely cut goes on.
func TestWorldModelLearningContinueTarget(t *testing.T) {
	c := variants()["recurrent"]
	a := newAgent(t, c)
	p := newBatchOf(c, 1)
	if err := a.batch.load(c, p); err != nil {
		t.Fatal(err)
	}
	ends := 0
	for b := range p.Size {
		for step := range p.Length {
			want := float32(1 - 1/c.Horizon)
			if p.Flags[b*p.Length+step]&flagTerminal != 0 {
				want = 0
				ends++
			}
			if got := a.batch.live[step*p.Size+b]; got != want {
				t.Errorf("sequence %d step %d: target %v, want %v", b, step, got, want)
			}
		}
	}
	if ends != 1 {
		t.Errorf("%d ends in the batch, want 1", ends)
	}
}

// Critic learning: lambda-returns of imagined rollouts and, with trials that
// end or are cut, of replayed sequences.
func TestCriticLearningLambdaReturns(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const steps, n = 7, 5
	draw := func() []float32 {
		x := make([]float32, steps*n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	reward, live, boot := draw(), draw(), draw()
	last := make([]bool, steps*n)
	for i := range live {
		live[i] = 0.95
	}
	live[3*n+1], last[3*n+1] = 0, true // a trial ends
	last[2*n+2] = true                 // a trial is cut
	last[n+3], last[4*n+3] = true, true
	live[4*n+3] = 0
	column := func(x []float32, i int) (y vec) {
		for t := range steps {
			y = append(y, float64(x[t*n+i]))
		}
		return y
	}
	for _, lambda := range []float32{0, 0.5, 0.95, 1} {
		for _, cut := range [][]bool{nil, last} {
			got := make([]float32, (steps-1)*n)
			returns.Lambda(got, reward, live, boot, cut, lambda, steps, n)
			for i := range n {
				var c []bool
				if cut != nil {
					for t := range steps {
						c = append(c, cut[t*n+i])
					}
				}
				for step := range steps - 1 {
					want := returnsFrom(step, column(reward, i), column(live, i), column(boot, i), c, float64(lambda))
					near(t, "return", got[step*n+i:step*n+i+1], vec{want}, 1e-4)
				}
			}
		}
	}
	// By hand: behind an end there is nothing, behind a cut the critic's value.
	got := make([]float32, (steps-1)*n)
	returns.Lambda(got, reward, live, boot, last, 0.95, steps, n)
	near(t, "return before an end", got[2*n+1:2*n+2], vec{float64(reward[3*n+1])}, 1e-6)
	near(t, "return before a cut", got[n+2:n+3], vec{float64(reward[2*n+2]) + 0.95*float64(boot[2*n+2])}, 1e-6)
	// With λ = 1 and no end: the discounted sum.
	returns.Lambda(got, reward, live, boot, nil, 1, steps, n)
	var sum float64
	for step := steps - 1; step > 0; step-- {
		if step == steps-1 {
			sum = float64(boot[step*n])
		}
		sum = float64(reward[step*n]) + 0.95*sum
	}
	near(t, "discounted sum", got[:1], vec{sum}, 1e-5)
}

// Critic learning: the slow critic follows each update by its share, and the
// critic's second target is the slow critic's mean.
func TestCriticLearningSlowCritic(t *testing.T) {
	c := variants()["recurrent"]
	a := newAgent(t, c)
	slow := widen(a.slow)
	p := newBatchOf(c, 0)
	if err := a.batch.load(c, p); err != nil {
		t.Fatal(err)
	}
	a.batch.draw(c, a.rng)
	if err := a.gradients(t.Context()); err != nil {
		t.Fatal(err)
	}
	tensors := a.params.Module(model.Critic).Tensors
	critic, other := toWeights(tensors), toWeights(like(tensors, a.slow))
	d := c.Model.Deter
	var loss, first float64
	for i, r := range a.returns.ret {
		x := join(widen(a.imaginer.States.Deter[i*d:(i+1)*d]), denseStoch(c.Model, a.imaginer.States.Stoch, i))
		w, value := float64(a.returns.weight[i])/float64(len(a.returns.ret)), critic.mlp("critic", x)
		first += w * twoHotLoss(value, float64(r))
		loss += w * (twoHotLoss(value, float64(r)) + twoHotLoss(value, twoHotMean(other.mlp("critic", x))))
	}
	if loss < 1.1*first {
		t.Fatalf("loss %v with the second target, %v without: it would not show", loss, first)
	}
	at := slices.Index(lossNames, "loss/critic")
	near(t, "critic's loss", a.program.Value(a.losses[at]), vec{loss}, 1e-4)

	if _, err := a.Train(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	var want vec
	for i, p := range a.params.Module(model.Critic).Data {
		want = append(want, slow[i]+0.02*(float64(p)-slow[i]))
	}
	near(t, "slow critic", a.slow, want, 1e-6)
	if slices.Equal(a.slow, a.params.Module(model.Critic).Data) {
		t.Error("the slow critic is the critic")
	}
}

// The rollouts from a state share their chances, others do not, and each one's
// baseline is the mean of the others from its state.
func TestGroupsShareChances(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			c.ImagineGroup = 3
			a := newAgent(t, c)
			a.batch.draw(c, a.rng)
			row := c.Model.DrawLen()
			draws := slices.Collect(slices.Chunk(a.batch.rollout.Draw, row))
			for i, d := range draws[1:] {
				if got, want := slices.Equal(d, draws[i]), (i+1)%3 != 0; got != want {
					t.Fatalf("rows %d and %d share their draws: %v", i, i+1, got)
				}
			}
		})
	}
	x := []float32{1, 2, 6, -1, 0, 1}
	before, after := leaveOneOut(x, 3)
	near(t, "advantages", x, vec{-3, -1.5, 4.5, -1.5, 0, 1.5}, 1e-6)
	near(t, "squares", []float32{float32(before), float32(after)}, vec{43, 36}, 1e-6)
}

// Actor learning: Reinforce raises the logit of an action with a positive
// advantage by w·A·(1-p), entropy pulls towards the uniform distribution, and a
// waiting policy is not touched.
func TestActorLearningReinforceAndEntropy(t *testing.T) {
	c := variants()["recurrent"]
	c.Model.Unimix = 0
	a := newAgent(t, c)
	n := len(a.imaginer.Actions)
	logits := make([]float32, n*c.Model.Actions)
	for i := range n {
		a.imaginer.Actions[i] = 1
		a.returns.weight[i] = 0.5
		a.returns.advantage[i] = 2
		logits[3*i] = 1 // not uniform
	}
	every := slices.Repeat([]bool{true}, len(logits))
	c.Model.Dist().Probs(a.imaginer.Probs, a.imaginer.Soft, logits, every)
	for _, entropy := range []float64{0, 10} {
		op := &actorOp{cfg: c, net: a.imaginer, returns: a.returns, active: true, dp: make([]float32, len(logits))}
		op.weight = entropy
		p := softmax(vec{1, 0, 0})
		h := -(p[0]*math.Log(p[0]) + 2*p[1]*math.Log(p[1]))
		out := run(t, op, logits)
		near(t, "loss", out, vec{-0.5 * (2*math.Log(p[1]) + entropy*h)}, 1e-5)
		din := back(t, op, out, []float32{float32(n)}, [][]float32{logits}, 0)
		var want vec
		for k := range 3 {
			chosen := 0.0
			if k == 1 {
				chosen = 1
			}
			// ∂log π(a)/∂logit = 1[a] - p, ∂H/∂logit = -p·(log p + H)
			want = append(want, -0.5*(2*(chosen-p[k])-entropy*p[k]*(math.Log(p[k])+h)))
		}
		near(t, "gradient", din[0][:3], want, 1e-5)
		if down := din[0][1] < 0; !down && entropy == 0 {
			t.Error("descent lowers the logit of a good action")
		}
	}
}

// Hyperparameters: learning rates rise linearly from zero, and belong to the
// world model, the policy and the critic. With a half-life they then fall, from
// the end of the warm-up on, but not below a tenth.
func TestOptimizerWarmup(t *testing.T) {
	a := newAgent(t, variants()["recurrent"]) // warm-up of 10 updates
	for step, share := range map[int64]float64{0: 0, 1: 0.1, 5: 0.5, 10: 1, 1000: 1} {
		a.opt.Step = step
		for module, rate := range map[string]float64{model.Encoder: 1e-3, model.RSSM: 1e-3, model.Reward: 1e-3, model.Actor: 3e-4, model.Critic: 5e-4} {
			if got := a.rate(module); math.Abs(got-share*rate) > 1e-12 {
				t.Errorf("update %d: rate of %s is %v, want %v", step, module, got, share*rate)
			}
		}
	}
	a.cfg.HalfLife = 100
	for step, share := range map[int64]float64{0: 0, 5: 0.5, 10: 1, 110: 0.5, 60: math.Sqrt(0.5), 310: 0.125, 342: 0.1001, 343: 0.1, 1e9: 0.1} {
		a.opt.Step = step
		if got := a.rate(model.Encoder); math.Abs(got-share*1e-3) > 1e-7 {
			t.Errorf("update %d: the rate that falls is %v, want %v", step, got, share*1e-3)
		}
	}
	a.cfg.Warmup, a.cfg.HalfLife, a.opt.Step = 0, 0, 0
	if got := a.rate(model.Actor); got != 3e-4 {
		t.Errorf("rate without warm-up is %v", got)
	}
}
