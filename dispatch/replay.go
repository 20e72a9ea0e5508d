package dispatch

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// block is a run of a stream's arrivals, on servers as they are taken to be.
type block struct {
	jobs    []loadbalance.Job
	rates   []float64
	version *version
}

// maxBlocks wait to be replayed; further ones are left out, and counted.
const maxBlocks = 8

// replayShare bounds what replays take of one core. The loop competes with them for
// the processor: without a bound, replaying all of 5000 decisions a second took a third
// of a core and answers waited for it. They rest after each step and not after each
// block, for a block at one go keeps one of two processors from looking at the network
// for some tens of milliseconds.
const replayShare = 0.1

// replayer estimates what the policy costs and what the reference would: it replays
// blocks of arrivals through the simulator, once under each, from empty servers. The
// policy plays on the queues that its own choices lead to, with a memory of its own, so
// that the comparison is of two whole courses of events and not of single choices. What
// it cannot know is how the servers would really have been: the estimate is as good as
// their rates.
type replayer struct {
	service *Service
	blocks  chan block
	skipped atomic.Uint64

	version *version // that of advisor
	advisor *model.Advisor
	draw    *drawer
}

func newReplayer(s *Service) *replayer {
	return &replayer{service: s, blocks: make(chan block, maxBlocks), draw: newDrawer(s.seed+1, s.plan.Greedy)}
}

// offer never waits.
func (r *replayer) offer(b block) {
	select {
	case r.blocks <- b:
	default:
		r.skipped.Add(1)
	}
}

func (r *replayer) run(ctx context.Context) {
	for {
		select {
		case b := <-r.blocks:
			policy, reference, err := r.compare(ctx, b)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				r.service.log.Error("arrivals were not replayed", "error", err)
			default:
				r.service.compared(b.version, policy, reference)
			}
		case <-ctx.Done():
			return
		}
	}
}

// compare returns the mean completion times of a block's jobs, in time units.
func (r *replayer) compare(ctx context.Context, b block) (policy, reference float64, err error) {
	p := r.service.policy
	cfg := p.Env
	cfg.Jobs = len(b.jobs)
	task := &loadbalance.Task{Label: "replay", Workload: replayed(b.jobs), Rates: b.rates}
	task.Interval, task.Shape, task.Scale = 1, 1, 1 // of no use beside a workload, but they are checked
	e, err := loadbalance.New(cfg)
	if err != nil {
		return 0, 0, err
	}
	rule, err := loadbalance.NewPolicy(r.service.plan.Reference, loadbalance.PolicyOptions{})
	if err != nil {
		return 0, 0, err
	}
	if err := e.Reset(task, 0); err != nil {
		return 0, 0, err
	}
	rule.Reset(0)
	for done := false; !done; {
		o, err := e.Step(rule.Choose(e.Sim()))
		if err != nil {
			return 0, 0, err
		}
		done = o.Done
	}
	reference = e.Episode().MeanJCT

	if r.version != b.version {
		if r.advisor, err = b.version.advisor(p.Model, 1, r.service.seed+1); err != nil {
			return 0, 0, err
		}
		r.version = b.version
	}
	trial, err := env.NewTrialOf(e, task, []uint64{0})
	if err != nil {
		return 0, 0, err
	}
	trial.Blind = p.Blind
	memory, probs := make([]float32, p.Model.ContextLen()), make([]float32, p.Model.Actions)
	began := time.Now()
	for action := 0; ; {
		if err := pause(ctx, time.Duration(float64(time.Since(began))*(1/replayShare-1))); err != nil {
			return 0, 0, err
		}
		began = time.Now()
		s, err := trial.Next(action)
		if err != nil {
			return 0, 0, err
		}
		if s.Flags&env.Last != 0 {
			return e.Episode().MeanJCT, reference, nil
		}
		if err := r.advisor.Step(1, s.Obs, []uint8{uint8(s.Flags) & protocol.FlagFirst}, s.Mask, memory, probs, nil); err != nil {
			return 0, 0, err
		}
		if action = r.draw.from(probs); action < 0 {
			return 0, 0, fmt.Errorf("the policy's numbers are not finite")
		}
		p.Model.SetAction(memory, action)
	}
}

// pause waits, or returns ctx's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replayed is a workload of one episode.
type replayed loadbalance.JobList

func (r replayed) Episode(uint64, int) (loadbalance.Source, error) {
	jobs := loadbalance.JobList(r)
	return &jobs, nil
}

// compared takes in what a block cost under both, and holds all streams when the
// policy is found to be worse.
func (s *Service) compared(v *version, policy, reference float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v != s.acting {
		return // of parameters that act no more
	}
	s.blocks++
	s.policyCost += policy
	s.referenceCost += reference
	d := 0.0
	if sum := policy + reference; sum > 0 {
		d = (policy - reference) / sum
	}
	if s.test.add(d) {
		s.hold(nil, Hold{Guard: ReasonCost, Value: s.policyCost / s.referenceCost, Limit: 1 + s.plan.Guards.Cost.Margin,
			Note: "replayed on the same arrivals, in mean completion times"}, s.plan.Guards.Cost.Hold)
		s.test.reset()
	}
}
