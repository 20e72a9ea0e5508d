package a2c

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/learner/graph"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Agent is an actor-critic in training. It belongs to one goroutine.
type Agent struct {
	cfg    Config
	pool   *model.Pool
	params *model.Params
	opt    *model.Optimizer
	grads  [][]float32 // of the modules, in the program's memory

	data    *rollouts
	returns *returnsOp
	actor   *actorOp

	program                 *graph.Program
	actorLoss, critic, cost *graph.Node
	values                  map[string]float64
	rateF                   func(module string) float64
}

// New makes an agent with parameters drawn from seed.
func New(c Config, seed uint64) (*Agent, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	params, err := model.NewActorCriticParams(c.Model)
	if err != nil {
		return nil, err
	}
	params.Init(rand.New(rand.NewPCG(seed, 0x3c6ef372fe94f82b)))
	a := &Agent{cfg: c, params: params, pool: model.NewPool(c.Threads), values: map[string]float64{}}
	a.opt = model.NewOptimizer(params, c.Clip, a.pool)
	a.grads = make([][]float32, len(params.Modules))
	a.rateF = a.rate
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
	rows := c.BatchLength * c.BatchSize
	a.data = newRollouts(c)
	a.returns = newReturnsOp(c, a.data)
	a.actor = newActorOp(c, a.data, a.returns)

	g := graph.NewBuilder()
	param := map[string]*graph.Node{}
	var wrt []*graph.Node
	for _, module := range a.params.Modules {
		param[module.Name] = g.Input(module.Name, module.Data)
		wrt = append(wrt, param[module.Name])
	}
	inputs := []*graph.Node{g.Input("observations", a.data.obs)}
	diff := []int{0}
	if m.Recurrent {
		op := &rememberOp{model.NewRemember(m, c.BatchLength, c.BatchSize, a.pool), a.data, rows * m.StateLen()}
		inputs = append(inputs, g.Apply("remember", op, []*graph.Node{param[model.Memory], inputs[0]}, 0))
		diff = append(diff, 2)
	}
	head := func(name string) *graph.Node {
		op := &headOp{model.NewActorCriticMLP(m, name, rows, a.pool)}
		return g.Apply(name, op, append([]*graph.Node{param[name]}, inputs...), diff...)
	}
	logits, values := head(model.Actor), head(model.Critic)
	targets := g.Apply("returns", a.returns, []*graph.Node{values})
	a.actorLoss = g.Apply("actor_loss", a.actor, []*graph.Node{logits, targets}, 0)
	a.critic = g.Apply("critic_loss", &criticOp{a.data, a.returns.target}, []*graph.Node{values, targets}, 0)
	a.cost = g.Apply("total", totalOp{}, []*graph.Node{a.actorLoss, a.critic}, 0, 1)
	var err error
	a.program, err = g.Compile(a.cost, wrt...)
	return err
}

// Times adds the time that Train has spent so far to spent, by operator of the
// training graph; see graph.Program.Times.
func (a *Agent) Times(spent map[string]time.Duration) { a.program.Times(spent) }

// Train makes one gradient step on a batch. A loss or gradient that is not
// finite changes nothing, and the result says so; nor does a context that ends
// before the optimiser's update.
func (a *Agent) Train(ctx context.Context, p *protocol.Batch) (learner.Result, error) {
	if err := a.data.load(a.cfg, p); err != nil {
		return learner.Result{}, err
	}
	r := a.returns
	units, low, high, size := *r.units, r.norm.Low, r.norm.High, *r.size
	restore := func() { *r.units, r.norm.Low, r.norm.High, *r.size = units, low, high, size }
	if err := a.gradients(ctx); err != nil {
		restore()
		return learner.Result{}, err
	}
	cost := float64(a.program.Value(a.cost)[0])
	norm := math.Inf(1)
	if !math.IsNaN(cost) && !math.IsInf(cost, 0) {
		norm = a.opt.Update(a.grads, a.rateF)
	}
	metrics := a.metrics(cost, norm)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		restore()
		return learner.Result{Metrics: metrics, Skipped: true}, nil
	}
	return learner.Result{Metrics: metrics}, nil
}

// gradients runs the graph, which leaves the gradients of all modules.
func (a *Agent) gradients(ctx context.Context) error {
	a.actor.eta = a.cfg.entropy(a.opt.Step)
	if err := a.program.Run(ctx); err != nil {
		return fmt.Errorf("a2c: training step %d: %w", a.opt.Step, err)
	}
	for i := range a.grads {
		a.grads[i] = a.program.Grad(i)
	}
	return ctx.Err()
}

// rate is the learning rate of a module at the coming update.
func (a *Agent) rate(module string) float64 {
	share := a.cfg.schedule(a.opt.Step)
	if module == model.Critic {
		return share * a.cfg.CriticRate
	}
	return share * a.cfg.ActorRate
}

func (a *Agent) metrics(cost, norm float64) map[string]float64 {
	m, r := a.values, a.returns
	mean, deviation := r.units.of()
	m["loss/total"] = cost
	m["loss/actor"] = float64(a.program.Value(a.actorLoss)[0])
	m["loss/critic"] = float64(a.program.Value(a.critic)[0])
	m["train/grad_norm"] = norm
	m["train/entropy"] = a.actor.entropy
	m["train/return"] = r.returnMean
	m["train/return_mean"] = float64(mean)
	m["train/return_deviation"] = float64(deviation)
	m["train/explained"] = r.explained
	m["train/advantage"] = r.advantageSize
	m["train/advantage_scale"] = float64(r.size.Scale())
	return m
}

// Params appends the acting parameters as a safetensors blob.
func (a *Agent) Params(dst []byte) ([]byte, error) { return a.params.Blob(dst) }

// scales are the moving averages, as they are saved.
func (a *Agent) scales() []*float32 {
	r := a.returns
	return []*float32{&r.units.mean, &r.units.square, &r.units.seen, &r.norm.Low, &r.norm.High, &r.size.Mean, &r.size.Seen}
}
