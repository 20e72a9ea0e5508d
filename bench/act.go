package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
)

// actLength of a round.
const actLength = 200 * time.Millisecond

func runAct(ctx context.Context, o *Options, report func(Result)) error {
	pool := model.NewPool(1)
	defer pool.Close()
	s := sizes()[0]
	for _, rows := range []int{1, 64} {
		p, err := newActing(s.model, rows)
		if err != nil {
			return err
		}
		act := func() (float64, error) { return milliseconds(actLength, p.act) }
		limit, kind := p.copying, "memory_copy"
		if rows > 1 {
			flops := p.flops()
			limit, kind = func() (float64, error) { return flops / peak(pool, actLength/4) * 1e3, nil }, "peak_flops"
		}
		r, err := o.rounds(ctx, act, limit)
		if err != nil {
			return err
		}
		r.Name = fmt.Sprintf("act/%s/%d", s.name, rows)
		r.Config = fmt.Sprintf("size %s, %d observations, sampling included, 1 thread", s.name, rows)
		r.Unit, r.LimitKind = "ms", kind
		report(r)
		r.Name, r.Limit, r.LimitKind = r.Name+"/peer", s.act[rows], "pytorch_recorded"
		r.Ratio = r.Value / r.Limit
		report(r)
	}
	return actInEnvs(ctx, o, pool, report)
}

// actInEnvs measures what an actor does for each environment step but publish
// it: the policy of the preset small in 64 environments.
func actInEnvs(ctx context.Context, o *Options, pool *model.Pool, report func(Result)) error {
	const envs = 64
	c, cfg, err := presetConfig("small", 1)
	if err != nil {
		return err
	}
	m := c.Model
	p, err := newActing(m, envs)
	if err != nil {
		return err
	}
	trials := make([]*env.Trial, envs)
	for i := range trials {
		e, err := defaultEnv(cfg)
		if err != nil {
			return err
		}
		if trials[i], err = env.NewTrial(e, env.Fixed(loadbalance.ParkTask()), 1, uint64(i)); err != nil {
			return err
		}
	}
	tick := func() error {
		for i, t := range trials {
			s, err := t.Next(int(p.action[i]))
			if err != nil {
				return err
			}
			copy(p.obs[i*m.Obs:], s.Obs)
			p.flags[i] = uint8(s.Flags)
		}
		return p.act()
	}
	flops := p.flops() / envs
	r, err := o.rounds(ctx, func() (float64, error) { return perSecond(actLength, envs, tick) },
		func() (float64, error) { return peak(pool, actLength/4) / flops, nil })
	if err != nil {
		return err
	}
	r.Name, r.Config = "act/small/environments", "policy of the preset small, 64 environments stepped, 1 thread"
	r.Unit, r.LimitKind = "steps/s", "peak_flops"
	report(r)
	return nil
}

// acting is a policy with everything that a step needs.
type acting struct {
	policy *model.Policy
	params *model.Params
	obs    []float32
	flags  []uint8
	action []int32
	logp   []float32
}

func newActing(m model.Config, rows int) (*acting, error) {
	policy, err := model.NewPolicy(m, rows, 1)
	if err != nil {
		return nil, err
	}
	params, err := model.NewParams(m)
	if err != nil {
		return nil, err
	}
	params.Init(rand.New(rand.NewPCG(1, 2)))
	policy.Use(params)
	return &acting{
		policy: policy, params: params, obs: make([]float32, rows*m.Obs), flags: make([]uint8, rows),
		action: make([]int32, rows), logp: make([]float32, rows),
	}, nil
}

func (p *acting) act() error {
	p.policy.Act(p.obs, p.flags, nil, p.action, p.logp)
	return nil
}

// flops of one step of all rows.
func (p *acting) flops() float64 {
	before := model.Flops()
	p.policy.Act(p.obs, p.flags, nil, p.action, p.logp)
	return float64(model.Flops() - before)
}

// copying is the time that it takes to copy the acting weights once, in
// milliseconds: a step of one row has to read them all.
func (p *acting) copying() (float64, error) {
	weights := p.params.ActingTensors()
	dst := make([]float32, len(p.params.Data))
	return milliseconds(actLength/4, func() error {
		at := 0
		for _, t := range weights {
			at += copy(dst[at:], t.Data)
		}
		return nil
	})
}
