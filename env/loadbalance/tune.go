package loadbalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/optimize"
)

// TuneConfig says what the tuner looks for.
type TuneConfig struct {
	// Episodes are those that the parameters are tuned on; never those that a result is reported on.
	Episodes *Episodes
	// Start is where the search begins, and its knots are those tuned.
	Start *Index
	// Population is the number of candidates of a generation, Generations how many there are.
	Population, Generations int
	// Seed decides every draw. The result does not depend on Workers, the number of candidates run at once.
	Seed    uint64
	Workers int
	// Progress, if set, is called after each generation with the best mean ratio to LEFT so far. An error ends the
	// search with it.
	Progress func(generation int, best float64) error
}

// initialStep is the search's first standard deviation, in natural units of the parameters: a tenth of what they
// multiply.
const initialStep = 0.1

// errEnough ends a search whose result is kept. The optimiser's own limits would not do: what it then returns depends
// on which candidates of the next generation happened to be under way.
var errEnough = errors.New("enough")

// Tune minimises the mean ratio of the index policy's mean job completion time to LEFT's over the episodes, by the
// covariance matrix adaptation evolution strategy (CMA-ES, with Cholesky updates: Krause, Arbonès and Igel, 2016).
// It returns the best parameters found, which are never worse than the start, and their ratio. A context that ends
// ends the search early with what there is, without error.
//
// The mean ratio is jagged: one job placed otherwise changes all that follow, and changes of the parameters by a
// thousandth move the mean over 100 episodes by two percent. Of two results that differ by less, neither is better.
// On Park's default workload, 3 knots and 200 episodes of 1000 jobs reach 0.80 on other seeds; going on from there
// with a knot for each of the ten servers found nothing better.
func Tune(ctx context.Context, cfg TuneConfig) (*Index, float64, error) {
	if cfg.Population < 4 || cfg.Generations < 1 || cfg.Workers < 1 {
		return nil, 0, errors.New("tune: want a population of 4 or more, and a positive number of generations and of workers")
	}
	e := cfg.Episodes
	reference, err := e.Score(ctx, new(left))
	if err != nil {
		return nil, 0, fmt.Errorf("tune: %w", err)
	}
	units := indexUnits(e)

	runners := make(chan *tuneRunner, cfg.Workers)
	for range cfg.Workers {
		runners <- &tuneRunner{scores: make([]float64, len(reference))}
	}
	ratio := func(v []float64) float64 {
		r := <-runners
		defer func() { runners <- r }()
		return r.ratio(e, cfg.Start.with(v, units), reference)
	}
	zero := make([]float64, indexFamilies*len(cfg.Start.Rates))
	best, at := ratio(zero), zero
	if math.IsInf(best, 1) {
		return nil, 0, errors.New("tune: the starting parameters can not be scored")
	}

	recorder := recordFunc(func(l *optimize.Location, stats *optimize.Stats) error {
		if l.F < best {
			best, at = l.F, slices.Clone(l.X)
		}
		if cfg.Progress != nil {
			if err := cfg.Progress(stats.MajorIterations, best); err != nil {
				return err
			}
		}
		if stats.MajorIterations == cfg.Generations || ctx.Err() != nil {
			return errEnough
		}
		return nil
	})
	_, err = optimize.Minimize(
		optimize.Problem{Func: ratio}, zero,
		&optimize.Settings{Concurrent: cfg.Workers, Converger: optimize.NeverTerminate{}, Recorder: recorder},
		&optimize.CmaEsChol{InitStepSize: initialStep, Population: cfg.Population, Src: rand.NewPCG(cfg.Seed, 4)},
	)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, 0, fmt.Errorf("tune: %w", err)
	}
	return cfg.Start.with(at, units), best, nil
}

// recordFunc is called after each generation.
type recordFunc func(*optimize.Location, *optimize.Stats) error

func (f recordFunc) Init() error { return nil }
func (f recordFunc) Record(l *optimize.Location, op optimize.Operation, stats *optimize.Stats) error {
	if op != optimize.MajorIteration {
		return nil
	}
	return f(l, stats)
}

// tuneRunner scores candidates one after another.
type tuneRunner struct {
	sim    Sim
	scores []float64
}

// ratio is the mean ratio to the reference, infinite where the policy drives a backlog out of all bounds.
func (r *tuneRunner) ratio(e *Episodes, x *Index, reference []float64) float64 {
	if err := e.score(context.Background(), &r.sim, newIndexPolicy(PolicyOptions{Index: x}), r.scores); err != nil {
		return math.Inf(1)
	}
	var sum float64
	for i, s := range r.scores {
		sum += s / reference[i]
	}
	return sum / float64(len(reference))
}

// indexUnits are natural units of the five families, from the mean service time on a server of mean rate.
func indexUnits(e *Episodes) [indexFamilies]float64 {
	var work, jobs, rates float64
	for _, list := range e.Jobs {
		for _, j := range list {
			work += float64(j.Size)
		}
		jobs += float64(len(list))
	}
	for _, r := range e.Rates {
		rates += r
	}
	service := max(work/jobs, 1) * float64(len(e.Rates)) / rates
	return [...]float64{1, 1, service, 1 / service, 1 / service}
}

// with returns a copy of x moved by v, which is in the given units and holds each family's values in turn.
func (x *Index) with(v []float64, units [indexFamilies]float64) *Index {
	y := &Index{Rates: x.Rates}
	n := len(x.Rates)
	from := x.families()
	for k, list := range y.families() {
		*list = make([]float64, n)
		for i := range *list {
			(*list)[i] = (*from[k])[i] + v[k*n+i]*units[k]
		}
	}
	return y
}

// Resample returns the same index with other knots: at these rates it gives the same parameters.
func (x *Index) Resample(rates []float64) *Index {
	y := NewIndex(rates)
	for i, r := range y.Rates {
		c := x.at(r)
		for k, list := range y.families() {
			(*list)[i] = c[k]
		}
	}
	return y
}
