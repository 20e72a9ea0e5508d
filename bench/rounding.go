package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// actingSizes say how long a policy with rounded parameters is compared with
// the exact one.
type actingSizes struct{ rows, steps int }

// run reports by how much the probabilities of actions differ, and how often
// the most probable action is the same, where parameters are rounded to
// bfloat16. Both policies decide from the same states and draws; the exact
// one's actions are played. The parameters are initial ones, whose actions are
// told apart as those of a trained policy are: initially the last layer is a
// hundredth of the others.
func (z actingSizes) run(ctx context.Context, o *Options, report func(Result)) error {
	play, err := newPlay(z.rows)
	if err != nil {
		return err
	}
	var sum, largest float64
	same := 0
	for range z.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := play.step(); err != nil {
			return err
		}
		p, q := play.exact.Probs(), play.rounded.Probs()
		for i := range p {
			d := math.Abs(float64(p[i] - q[i]))
			sum, largest = sum+d, max(largest, d)
		}
		n := len(p) / z.rows
		for i := 0; i < len(p); i += n {
			if most(p[i:i+n]) == most(q[i:i+n]) {
				same++
			}
		}
	}
	decisions := z.rows * z.steps
	config := fmt.Sprintf("default sizes, initial parameters, %d decisions", decisions)
	for _, r := range []Result{
		{Name: "broadcast/bfloat16_largest_difference", Value: largest, Unit: "probability"},
		{Name: "broadcast/bfloat16_mean_difference", Value: sum / float64(len(play.exact.Probs())*z.steps), Unit: "probability"},
		{Name: "broadcast/bfloat16_same_greedy_action", Value: float64(same) / float64(decisions), Unit: "share"},
	} {
		r.Config, r.LimitKind = config, "none"
		report(r)
	}
	return nil
}

// play is the environments and the two policies.
type play struct {
	trials         []*env.Trial
	exact, rounded *model.Policy

	obs     []float32
	flags   []uint8
	mask    []bool
	action  []int32
	logProb []float32
	ignored []int32
}

func newPlay(rows int) (*play, error) {
	cfg := protocol.DefaultConfig()
	p := &play{flags: make([]uint8, rows), action: make([]int32, rows), logProb: make([]float32, rows), ignored: make([]int32, rows)}
	tasks := &loadbalance.Tasks{Jobs: cfg.Env.EpisodeJobs, Base: loadbalance.Task{
		Label: cfg.Env.Workload.Kind, Interval: cfg.Env.JobInterval, Shape: cfg.Env.JobSizeShape,
		Scale: cfg.Env.JobSizeScale, Rates: cfg.Env.ServiceRates,
	}}
	for i := range rows {
		e, err := defaultEnv(cfg)
		if err != nil {
			return nil, err
		}
		trial, err := env.NewTrial(e, tasks, 1, uint64(i))
		if err != nil {
			return nil, err
		}
		p.trials = append(p.trials, trial)
	}
	spec := p.trials[0].Spec()
	p.obs, p.mask = make([]float32, rows*spec.Obs), make([]bool, rows*spec.Actions)

	c := dreamer.ConfigOf(cfg, spec.Obs, spec.Actions).Model
	params, err := model.NewParams(c)
	if err != nil {
		return nil, err
	}
	params.Init(rand.New(rand.NewPCG(1, 1)))
	for _, t := range params.Module(model.Actor).Tensors {
		if t.Name == model.Actor+"/out/kernel" {
			for i := range t.Data {
				t.Data[i] *= 100
			}
		}
	}
	if p.exact, err = loaded(c, params, rows, model.F32); err != nil {
		return nil, err
	}
	p.rounded, err = loaded(c, params, rows, model.BF16)
	return p, err
}

// loaded is a policy as an actor has it after a broadcast.
func loaded(c model.Config, params *model.Params, rows int, dtype model.DType) (*model.Policy, error) {
	blob, err := params.BlobAs(nil, dtype)
	if err != nil {
		return nil, err
	}
	policy, err := model.NewPolicy(c, rows, 1)
	if err != nil {
		return nil, err
	}
	return policy, policy.Load(blob)
}

// step has both policies decide, from where the exact one is.
func (p *play) step() error {
	for i, trial := range p.trials {
		step, err := trial.Next(int(p.action[i]))
		if err != nil {
			return err
		}
		copy(p.obs[i*len(step.Obs):], step.Obs)
		copy(p.mask[i*len(step.Mask):], step.Mask)
		p.flags[i] = uint8(step.Flags)
	}
	state, err := p.exact.Save(nil)
	if err != nil {
		return err
	}
	if err := p.rounded.Restore(state); err != nil {
		return err
	}
	p.exact.Act(p.obs, p.flags, p.mask, p.action, p.logProb)
	p.rounded.Act(p.obs, p.flags, p.mask, p.ignored, p.logProb)
	return nil
}

func most(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}
