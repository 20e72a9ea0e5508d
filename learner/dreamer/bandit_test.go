package dreamer

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// The task: two arms, of which one pays 1 and the other costs 1, and an action
// that pays nothing and shows, in the next observation alone, which is which.
// What a pull paid is not shown. The good arm stays the same through a trial.
//
// A policy without memory knows the good arm only when it has just looked, so
// that at most every other action pays: its mean reward is at most 1/2. One
// that remembers looks once and is paid ever after: to the episode's end if its
// memory ends with the episode, to the trial's end if it is RL²'s.
const (
	look     = 2
	actions  = 3
	steps    = 3 // in an episode
	episodes = 2 // in a trial

	reactiveOptimum = 0.5
	episodeOptimum  = float64(steps-1) / steps
	memoryOptimum   = float64(steps*episodes-1) / (steps * episodes)

	// What an agent must reach: nearer to the optimum of a trial's memory than to
	// that of an episode's.
	threshold = (episodeOptimum + memoryOptimum) / 2
)

type bandit struct {
	good  goodArm
	shown bool
	count int
	sum   float64
}

type goodArm int

func (goodArm) Name() string { return "bandit" }

type anyArm struct{}

func (anyArm) Draw(r *rand.Rand) env.Task { return goodArm(r.IntN(2)) }

func (b *bandit) Spec() env.Spec { return env.Spec{Obs: 2, Actions: actions} }

func (b *bandit) Reset(task env.Task, _ uint64) error {
	good, ok := task.(goodArm)
	if !ok {
		return errors.New("not a bandit")
	}
	*b = bandit{good: good}
	return nil
}

func (b *bandit) Observe(obs []float32, mask []bool) {
	clear(obs)
	if b.shown {
		obs[b.good] = 1
	}
	for i := range mask {
		mask[i] = true
	}
}

func (b *bandit) Step(action int) (env.Outcome, error) {
	b.count++
	b.shown = action == look
	reward := 0.0
	switch action {
	case look:
	case int(b.good):
		reward = 1
	default:
		reward = -1
	}
	b.sum += reward
	return env.Outcome{Reward: reward, Done: b.count == steps}, nil
}

func (b *bandit) Episode() env.Summary {
	return env.Summary{Task: "bandit", Return: b.sum, Length: b.count}
}

// streams is a replay in memory: what each environment saw, with a context row
// for every step.
type streams struct {
	envs    int
	obs     [][][]float32 // by environment and step
	action  [][]uint16
	reward  [][]float32
	flags   [][]uint8
	context [][][]float32
	rng     *rand.Rand
	cfg     Config
	batch   protocol.Batch
}

func newStreams(c Config, envs int, seed uint64) *streams {
	s := &streams{envs: envs, cfg: c, rng: rand.New(rand.NewPCG(seed, 1))}
	s.obs, s.context = make([][][]float32, envs), make([][][]float32, envs)
	s.action, s.reward, s.flags = make([][]uint16, envs), make([][]float32, envs), make([][]uint8, envs)
	return s
}

func (s *streams) sample() *protocol.Batch {
	c := s.cfg
	p := &s.batch
	n := c.Model.ContextLen()
	p.Resize(c.BatchSize, c.BatchLength, c.Model.Obs, c.Model.Actions, n)
	for i := range p.Mask {
		p.Mask[i] = true
	}
	for b := range p.Size {
		e := s.rng.IntN(s.envs)
		start := s.rng.IntN(len(s.reward[e]) - p.Length + 1)
		copy(p.Context[b*n:], s.context[e][start])
		for t := range p.Length {
			at := b*p.Length + t
			copy(p.Obs[at*p.ObsLen:], s.obs[e][start+t])
			p.Action[at], p.Reward[at], p.Flags[at] = s.action[e][start+t], s.reward[e][start+t], s.flags[e][start+t]
			p.Refs = append(p.Refs, protocol.Ref{Sequence: uint32(b), Step: uint32(t), Slot: uint32(e), Row: uint32(start + t)})
		}
	}
	return p
}

func (s *streams) refresh(r *protocol.Refresh) {
	n := s.cfg.Model.ContextLen()
	for i, ref := range r.Refs {
		copy(s.context[ref.Slot][ref.Row], r.Context[i*n:(i+1)*n])
	}
}

// forget is what a player's policy forgets before a step.
type forget int

const (
	nothing     forget = iota
	everything         // all recurrent state
	episodesAgo        // all recurrent state where an episode begins
	policyState        // the state of the policy's GRU
)

// player plays trials in a number of environments.
type player struct {
	policy  *model.Policy
	trials  []*env.Trial
	action  []int32
	logProb []float32
	forget  forget
	taken   float64 // actions
	total   float64 // reward
	cfg     model.Config
}

func newPlayer(t *testing.T, c model.Config, envs int, seed uint64) *player {
	policy, err := model.NewPolicy(c, envs, seed)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{policy: policy, cfg: c, action: make([]int32, envs), logProb: make([]float32, envs)}
	for i := range envs {
		trial, err := env.NewTrial(&bandit{}, anyArm{}, episodes, seed<<8+uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		p.trials = append(p.trials, trial)
	}
	return p
}

// step advances every environment and stores what happened, if a replay is
// given.
func (p *player) step(t *testing.T, s *streams) {
	n, d := len(p.trials), p.cfg.Obs
	obs, flags := make([]float32, n*d), make([]uint8, n)
	reward := make([]float32, n)
	for i, trial := range p.trials {
		ts, err := trial.Next(int(p.action[i]))
		if err != nil {
			t.Fatal(err)
		}
		copy(obs[i*d:], ts.Obs)
		flags[i], reward[i] = uint8(ts.Flags), ts.Reward
		if flags[i]&flagFirst == 0 {
			p.taken++
			p.total += float64(ts.Reward)
		}
	}
	width := p.cfg.ContextLen()
	context := make([]float32, n*width)
	p.policy.Context(context)
	switch c := p.cfg; p.forget {
	case everything:
		p.policy.Reset()
	case episodesAgo:
		p.change(t, func(row int, context []float32) {
			if env.Flags(flags[row])&env.EpisodeStart != 0 {
				clear(context)
			}
		})
	case policyState:
		p.change(t, func(_ int, context []float32) { clear(context[c.Deter+c.DrawLen():][:c.PolicyState()]) })
	}
	p.policy.Act(obs, flags, nil, p.action, p.logProb)
	if s == nil {
		return
	}
	for i := range n {
		action := p.action[i]
		if flags[i]&flagLast != 0 {
			action = 0
		}
		s.obs[i] = append(s.obs[i], obs[i*d:(i+1)*d])
		s.action[i] = append(s.action[i], uint16(action))
		s.reward[i] = append(s.reward[i], reward[i])
		s.flags[i] = append(s.flags[i], flags[i])
		s.context[i] = append(s.context[i], context[i*width:(i+1)*width])
	}
}

// change changes the recurrent state of every row, as its context has it.
func (p *player) change(t *testing.T, f func(row int, context []float32)) {
	t.Helper()
	state, err := p.policy.Save(nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := model.Decode(state)
	if err != nil {
		t.Fatal(err)
	}
	n := p.cfg.ContextLen()
	for row := range p.trials {
		f(row, file.ByName()["context"].Data[row*n:(row+1)*n])
	}
	var changed bytes.Buffer
	if _, err := file.WriteTo(&changed); err != nil {
		t.Fatal(err)
	}
	if err := p.policy.Restore(changed.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// score is the mean reward per action over some steps with an agent's parameters.
func score(t *testing.T, a *Agent, forget forget) float64 {
	p := newPlayer(t, a.cfg.Model, 64, 1000)
	p.forget = forget
	p.policy.Use(a.params)
	for range 10 * (steps*episodes + 1) {
		p.step(t, nil)
	}
	return p.total / p.taken
}

// learn trains an agent on the task until it reaches the threshold. changed is
// called with it before the first update and after each. Some 500 updates suffice;
// their number is bounded, not fixed, because paths of arithmetic round
// differently.
func learn(t *testing.T, changed func(a *Agent)) *Agent {
	t.Helper()
	if testing.Short() {
		t.Skip("learning takes seconds, on the portable path half a minute")
	}
	c := Config{
		Model: model.Config{
			Obs: 2 + env.Extra, Actions: actions, Deter: 64, Hidden: 64, Stoch: 4, Classes: 4, Blocks: 1,
			Units: 64, Layers: 1, Bins: 41, Recurrent: true, PolicyUnits: 16, Unimix: 0.01,
		},
		BatchSize: 16, BatchLength: 14, Horizon: 10, ImagineLength: 6, ImagineLast: 7, ImagineGroup: 1, Lambda: 0.95, Entropy: 0.02,
		ModelRate: 3e-3, ActorRate: 1e-3, CriticRate: 2e-3, Warmup: 20, Clip: 0.3, ActorStart: 400,
		FreeNats: 0.1, Reconstruction: 10, ReplayValue: 0.3, SlowRate: 0.02, ReturnRate: 0.05, Threads: 1,
	}
	const envs, updates = 16, 1500
	a, err := New(c, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	changed(a)
	replay := newStreams(c, envs, 2)
	p := newPlayer(t, c.Model, envs, 3)
	for range 4 * c.BatchLength {
		p.step(t, replay)
	}
	for i := 1; ; i++ {
		r, err := a.Train(t.Context(), replay.sample())
		if err != nil {
			t.Fatal(err)
		}
		replay.refresh(r.Refresh)
		changed(a)
		p.policy.Use(a.params)
		p.step(t, replay)
		if i%50 != 0 || i < int(c.ActorStart) {
			continue
		}
		got := score(t, a, nothing)
		t.Logf("update %d: reward per action %.3f", i, got)
		if got >= threshold {
			return a
		}
		if i >= updates {
			t.Fatalf("reward per action %.3f after %d updates, want %.3f: with memory of an episode alone there is at most %.3f, without memory %.3f",
				got, i, threshold, episodeOptimum, reactiveOptimum)
		}
	}
}

// checkForgetting fails if an agent gets more than limit while it forgets.
func checkForgetting(t *testing.T, a *Agent, what string, forget forget, limit float64) {
	t.Helper()
	got := score(t, a, forget)
	t.Logf("reward per action when it forgets %s: %.3f", what, got)
	if got > limit {
		t.Errorf("reward per action %.3f when it forgets %s, which allows %.3f", got, what, limit)
	}
}

// The agent must learn to look once and to remember through the episodes of a
// trial, which neither a policy without memory can nor one whose memory ends with
// the episode; made to forget like these, the same parameters must not reach what
// they reached.
func TestMemoryTask(t *testing.T) {
	a := learn(t, func(*Agent) {})
	checkForgetting(t, a, "everything at every step", everything, reactiveOptimum)
	checkForgetting(t, a, "everything at an episode's start", episodesAgo, episodeOptimum)
}

// The same with a policy that has no memory but its own: it does not see the
// deterministic state, and neither does the posterior, so that the stochastic
// state that it sees is of the last observation alone. What it then remembers is
// in its GRU.
func TestMemoryTaskOfThePolicyAlone(t *testing.T) {
	a := learn(t, func(a *Agent) {
		for _, tensor := range a.params.Tensors() {
			if tensor.Name == "actor/in/kernel" || tensor.Name == "rssm/posterior/kernel" {
				clear(tensor.Data[:a.cfg.Model.Deter*tensor.Shape[1]]) // the rows that read it
			}
		}
	})
	checkForgetting(t, a, "its policy's state at every step", policyState, reactiveOptimum)
	checkForgetting(t, a, "everything at an episode's start", episodesAgo, episodeOptimum)
}
