package loadbalance

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
)

// Trials of policies on common random numbers: Episodes records the jobs of each seed once, and every policy runs on
// the same ones.
type Episodes struct {
	Rates []float64
	Seeds []uint64
	Jobs  []JobList // one list a seed
}

// NewEpisodes records the episodes of the seeds, each of the given number of jobs (16 bytes a job), unless ctx ends.
func NewEpisodes(ctx context.Context, w Workload, rates []float64, seeds []uint64, jobs int) (*Episodes, error) {
	if len(seeds) == 0 {
		return nil, errors.New("loadbalance: no seeds")
	}
	if jobs < 1 || jobs > MaxJobs {
		return nil, fmt.Errorf("loadbalance: %d jobs an episode, want 1 to %d", jobs, MaxJobs)
	}
	e := &Episodes{Rates: rates, Seeds: seeds}
	for _, seed := range seeds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		src, err := w.Episode(seed, jobs)
		if err != nil {
			return nil, err
		}
		list, err := Record(src, jobs)
		if err != nil {
			return nil, fmt.Errorf("loadbalance: jobs of seed %d: %w", seed, err)
		}
		e.Jobs = append(e.Jobs, list)
	}
	return e, nil
}

// Score runs the policy on every episode and returns the mean job completion time of each, in time units.
func (e *Episodes) Score(ctx context.Context, p Policy) ([]float64, error) {
	scores := make([]float64, len(e.Seeds))
	return scores, e.score(ctx, new(Sim), p, scores)
}

func (e *Episodes) score(ctx context.Context, sim *Sim, p Policy, scores []float64) error {
	for k, seed := range e.Seeds {
		if err := ctx.Err(); err != nil {
			return err
		}
		jobs := e.Jobs[k]
		if err := sim.Reset(e.Rates, len(jobs), &jobs); err != nil {
			return fmt.Errorf("policy %s, seed %d: %w", p.Name(), seed, err)
		}
		p.Reset(seed)
		for done := false; !done; {
			var err error
			if _, _, done, err = sim.Step(p.Choose(sim)); err != nil {
				return fmt.Errorf("policy %s, seed %d, job %d: %w", p.Name(), seed, sim.Assigned(), err)
			}
		}
		scores[k] = sim.MeanJCT()
	}
	return nil
}

// LowerBound returns for each episode a mean job completion time that no dispatcher can beat: the larger of what one
// server of all rates together reaches by preemptive shortest remaining processing time, which is optimal there
// (Schrage, 1968), and of what each job takes on the fastest server alone.
//
// Service times are truncated to integers, by which a server of rate r saves up to r of a job's work. The bound takes
// sizes as they are, so it is the bound of exact service, above the strict one by less than half a percent at Park's
// default sizes.
func (e *Episodes) LowerBound(ctx context.Context) ([]float64, error) {
	var total, fastest float64
	for _, r := range e.Rates {
		total += r
		fastest = max(fastest, r)
	}
	bounds := make([]float64, len(e.Jobs))
	for k, jobs := range e.Jobs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var alone float64
		for _, j := range jobs {
			alone += float64(int64(float64(j.Size) / fastest))
		}
		bounds[k] = max(pooledSRPT(jobs, total), alone) / float64(len(jobs))
	}
	return bounds, nil
}

// pooledSRPT is the total time in system on one server of the given rate under shortest remaining processing time.
func pooledSRPT(jobs JobList, rate float64) float64 {
	var open smallestFirst // remaining service times
	var now, total float64
	run := func(until float64) {
		for len(open) > 0 && now < until {
			step := min(open[0], until-now)
			total += step * float64(len(open))
			now += step
			if open[0] -= step; open[0] <= 0 {
				heap.Pop(&open)
			}
		}
		now = until
	}
	var arrival float64
	for _, j := range jobs {
		arrival += float64(j.Gap)
		run(arrival)
		heap.Push(&open, float64(j.Size)/rate)
	}
	var rest float64
	for _, s := range open {
		rest += s
	}
	run(now + 2*rest + 1)
	return total
}

type smallestFirst []float64

func (h smallestFirst) Len() int           { return len(h) }
func (h smallestFirst) Less(i, j int) bool { return h[i] < h[j] }
func (h smallestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *smallestFirst) Push(v any)        { *h = append(*h, v.(float64)) }
func (h *smallestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
