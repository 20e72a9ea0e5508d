package dreamer

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/learner/graph"
	"github.com/dreamfleet/dreamfleet/learner/returns"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Agent is the DreamerV3 world model and its RL² policy in training. It
// belongs to one goroutine.
type Agent struct {
	cfg    Config
	pool   *model.Pool
	params *model.Params
	slow   []float32 // the slow critic
	opt    *model.Optimizer
	norm   *returns.Range
	size   *returns.Size
	pcg    *rand.PCG
	rng    *rand.Rand
	grads  [][]float32 // of the modules, in the program's memory

	batch    *batch
	feat     *features
	imaginer *model.Imaginer
	kl       *klOp
	returns  *returnsOp
	actor    *actorOp

	program *graph.Program
	losses  []*graph.Node // in the order of lossNames
	total   *graph.Node
	context protocol.Refresh
	values  map[string]float64
	rateF   func(module string) float64
}

var lossNames = []string{
	"loss/kl", "loss/reconstruction", "loss/reward", "loss/continue", "loss/actor", "loss/critic", "loss/replay_value",
}

// New makes an agent with parameters drawn from seed.
func New(c Config, seed uint64) (*Agent, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	params, err := model.NewParams(c.Model)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: c, params: params, pool: model.NewPool(c.Threads), norm: &returns.Range{}, size: &returns.Size{}}
	a.pcg = rand.NewPCG(seed, 0x6a09e667f3bcc909)
	a.rng = rand.New(a.pcg)
	params.Init(a.rng)
	a.slow = append([]float32(nil), params.Module(model.Critic).Data...)
	a.opt = model.NewOptimizer(params, c.Clip, a.pool)
	a.grads = make([][]float32, len(params.Modules))
	a.values, a.rateF = map[string]float64{}, a.rate
	if err := a.build(); err != nil {
		a.pool.Close()
		return nil, err
	}
	return a, nil
}

// Close ends the agent's threads.
func (a *Agent) Close() error {
	a.pool.Close()
	return a.program.Close()
}

// build lays the training step out as a graph.
func (a *Agent) build() error {
	c, m := a.cfg, a.cfg.Model
	t, b, k, h := c.BatchLength, c.BatchSize, c.starts(), c.ImagineLength
	rows, n := t*b, c.rollouts()
	dist := model.NewTwoHot(m.Bins)
	dist.Pool = a.pool
	a.batch = newBatch(c)
	a.feat = newFeatures(m, rows)
	a.imaginer = model.NewImaginer(m, t, b, k, h, c.ImagineGroup, a.pool)
	a.returns = newReturnsOp(c, a.batch, dist, a.norm, a.size)
	a.actor = &actorOp{cfg: c, net: a.imaginer, returns: a.returns, dp: make([]float32, h*n*m.Actions)}
	a.kl = &klOp{
		kl: model.NewKL(m, rows), feat: a.feat, free: c.FreeNats, rows: make([]float64, rows),
		post: make([]float32, rows), prior: make([]float32, rows),
	}
	a.kl.kl.Pool = a.pool

	g := graph.NewBuilder()
	param := map[string]*graph.Node{}
	var wrt []*graph.Node
	for _, module := range a.params.Modules {
		param[module.Name] = g.Input(module.Name, module.Data)
		wrt = append(wrt, param[module.Name])
	}
	slow := g.Input("slow_critic", a.slow)
	obs := g.Input("observations", a.batch.obs)
	nodes := func(n ...*graph.Node) []*graph.Node { return n }
	mlp := func(name string, rows int) *model.MLP { return model.NewMLP(m, name, rows, a.pool) }
	frozen := func(name string, rows int) *model.MLP { return model.NewFrozenMLP(m, name, rows, a.pool) }

	// The world model on the replayed sequences.
	embed := g.Apply("encode", &encodeOp{mlp(model.Encoder, rows)}, nodes(param[model.Encoder], obs), 0)
	feat := g.Apply("observe", &observeOp{model.NewObserver(m, t, b, a.pool), a.feat, &a.batch.sequence},
		nodes(param[model.RSSM], embed), 0, 1)
	shared := g.Apply("share", &shareOp{a.feat}, nodes(feat), 0)
	head := func(name string) *graph.Node {
		return g.Apply(name, &headOp{mlp(name, rows), a.feat}, nodes(param[name], shared), 0, 1)
	}
	twoHot := func(rows int, op twoHotOp) *twoHotOp {
		op.dist, op.probs = dist, make([]float32, rows*m.Bins)
		return &op
	}
	kl := g.Apply("kl", a.kl, nodes(shared, head(model.Prior)), 0, 1)
	reconstruction := g.Apply("reconstruction", &squaredOp{a.batch.obs, rows}, nodes(head(model.Decoder)), 0)
	reward := g.Apply("reward_loss", twoHot(rows, twoHotOp{targets: [][]float32{a.batch.reward}, count: rows}), nodes(head(model.Reward)), 0)
	goes := g.Apply("continue_loss", &continueOp{a.batch.live}, nodes(head(model.Continue)), 0)

	// Behaviour in imagination.
	logits := g.Apply("imagine", &imagineOp{a.imaginer, a.feat, &a.batch.sequence, &a.batch.rollout, h * n * m.Actions},
		nodes(param[model.Actor], param[model.RSSM], param[model.Prior], feat), 0)
	dream := func(as string, net *model.MLP, p *graph.Node, diff ...int) *graph.Node {
		return g.Apply(as, &dreamHeadOp{net, &a.imaginer.States}, nodes(p, logits), diff...)
	}
	imagined := (h + 1) * n
	values := dream("dream_critic", mlp(model.Critic, imagined), param[model.Critic], 0)
	replayValues := head(model.Critic)
	returns := g.Apply("returns", a.returns, nodes(
		dream("dream_reward", frozen(model.Reward, imagined), param[model.Reward]),
		dream("dream_continue", frozen(model.Continue, imagined), param[model.Continue]),
		values,
		dream("dream_slow", frozen(model.Critic, imagined), slow),
		g.Apply("replay_slow", &headOp{frozen(model.Critic, rows), a.feat}, nodes(slow, feat)),
	))
	actor := g.Apply("actor_loss", a.actor, nodes(logits, returns), 0)
	critic := g.Apply("critic_loss", twoHot(h*n, twoHotOp{
		targets: [][]float32{a.returns.ret, a.returns.slow[:h*n]}, weights: a.returns.weight, count: h * n,
	}), nodes(values, returns), 0)
	replayRows := (k - 1) * b
	replay := g.Apply("replay_value_loss", twoHot(replayRows, twoHotOp{
		targets: [][]float32{a.returns.replayRet, a.returns.replaySlow[:replayRows]}, weights: a.returns.replayWeight,
		count: replayRows, first: (t - k) * b,
	}), nodes(replayValues, returns), 0)

	a.losses = nodes(kl, reconstruction, reward, goes, actor, critic, replay)
	weights := []float32{1, float32(c.Reconstruction), 1, 1, 1, 1, float32(c.ReplayValue)}
	a.total = g.Apply("total", &totalOp{weights}, a.losses, 0, 1, 2, 3, 4, 5, 6)
	var err error
	a.program, err = g.Compile(a.total, wrt...)
	return err
}

// Times adds the time that Train has spent so far to spent, by operator of the
// training graph; see graph.Program.Times.
func (a *Agent) Times(spent map[string]time.Duration) { a.program.Times(spent) }

// Step is the number of updates made.
func (a *Agent) Step() int64 { return a.opt.Step }

// Train makes one gradient step on a batch. A loss or gradient that is not
// finite changes nothing but the random stream, and the result says so. A
// context that ends before the optimiser's update changes nothing at all.
func (a *Agent) Train(ctx context.Context, p *protocol.Batch) (learner.Result, error) {
	if err := a.batch.load(a.cfg, p); err != nil {
		return learner.Result{}, err
	}
	stream, low, high, size := *a.pcg, a.norm.Low, a.norm.High, *a.size
	a.batch.draw(a.cfg, a.rng)
	err := a.gradients(ctx)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		*a.pcg, a.norm.Low, a.norm.High, *a.size = stream, low, high, size
		return learner.Result{}, err
	}
	total := float64(a.program.Value(a.total)[0])
	norm := math.Inf(1)
	if !math.IsNaN(total) && !math.IsInf(total, 0) {
		norm = a.opt.Update(a.grads, a.rateF)
	}
	metrics := a.metrics(total, norm)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		a.norm.Low, a.norm.High, *a.size = low, high, size
		return learner.Result{Metrics: metrics, Skipped: true}, nil
	}
	model.Average(a.slow, a.params.Module(model.Critic).Data, float32(a.cfg.SlowRate))
	return learner.Result{Metrics: metrics, Refresh: a.refresh(p)}, nil
}

// gradients runs the graph, which leaves the gradients of all modules.
func (a *Agent) gradients(ctx context.Context) error {
	a.actor.active, a.actor.weight = a.opt.Step >= a.cfg.ActorStart, a.cfg.entropy(a.opt.Step)
	if err := a.program.Run(ctx); err != nil {
		return fmt.Errorf("dreamer: training step %d: %w", a.opt.Step, err)
	}
	for i := range a.grads {
		a.grads[i] = a.program.Grad(i)
		if m := &a.params.Modules[i]; m.Name == model.Prior && a.opt.Step < a.cfg.PriorStart {
			clear(m.JointOf(a.grads[i])) // which begins at zero and so stays there
		}
	}
	return nil
}

// rate is the learning rate of a module at the coming update.
func (a *Agent) rate(module string) float64 {
	share := a.cfg.schedule(a.opt.Step)
	switch module {
	case model.Actor:
		return share * a.cfg.ActorRate
	case model.Critic:
		return share * a.cfg.CriticRate
	}
	return share * a.cfg.ModelRate
}

func (a *Agent) metrics(total, norm float64) map[string]float64 {
	m := a.values
	m["loss/total"] = total
	m["train/grad_norm"] = norm
	m["train/kl"] = a.kl.mean
	m["train/entropy"] = a.actor.entropy
	m["train/return"] = a.returns.returnMean
	m["train/return_low"] = float64(a.norm.Low)
	m["train/return_high"] = float64(a.norm.High)
	m["train/advantage"] = a.returns.advantageSize
	m["train/advantage_shared"] = a.returns.shared
	m["train/advantage_scale"] = float64(a.size.Scale())
	for i, name := range lossNames {
		m[name] = float64(a.program.Value(a.losses[i])[0])
	}
	return m
}

// refresh recomputes the context rows that lie inside the batch's sequences.
// Rows at a sequence's first step are what the batch started from.
func (a *Agent) refresh(p *protocol.Batch) *protocol.Refresh {
	m, b := a.cfg.Model, p.Size
	g, n := m.PolicyState(), p.ContextLen
	policy := a.imaginer.PolicyStates()
	r := &a.context
	r.Refs, r.Context = r.Refs[:0], r.Context[:0]
	for _, ref := range p.Refs {
		t, s := int(ref.Step), int(ref.Sequence)
		if t == 0 {
			continue
		}
		at := t*b + s
		i := len(r.Context)
		r.Context = append(r.Context, make([]float32, n)...)
		m.PackContext(r.Context[i:], a.feat.states.Rows(m, at-b, at-b+1), policy[at*g:(at+1)*g], a.batch.action[at-b])
		r.Refs = append(r.Refs, ref)
	}
	return r
}

// Params appends the acting parameters as a safetensors blob of Config.ParamsType.
func (a *Agent) Params(dst []byte) ([]byte, error) { return a.params.BlobAs(dst, a.cfg.ParamsType) }
