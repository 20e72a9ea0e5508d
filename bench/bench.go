package bench

import (
	"context"
	"slices"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Result is one figure. Its JSON form is stable: keys are added, never changed.
type Result struct {
	Name      string  `json:"name"`       // of the benchmark, a slash, and what of it
	Config    string  `json:"config"`     // sizes, threads, kernel path
	Value     float64 `json:"value"`      // median of the rounds
	Unit      string  `json:"unit"`       // of value and limit
	Limit     float64 `json:"limit"`      // median of the rounds, 0 without one
	LimitKind string  `json:"limit_kind"` // what the limit is, "none" without one
	Ratio     float64 `json:"ratio"`      // value over limit, 0 without one
}

// Options are what every benchmark needs to know.
type Options struct {
	Threads int    // of the learner and of products of matrices
	Rounds  int    // measured after one to warm up, at least five
	Dir     string // an empty folder, on the disk whose speed matters

	// Train trains with all roles in this process, in a run folder, until the
	// budget is used up.
	Train func(ctx context.Context, c protocol.Config, dir string) error
}

// Benchmark is one part of the system. Run reports its figures as they come.
type Benchmark struct {
	Name  string
	About string
	Run   func(ctx context.Context, o *Options, report func(Result)) error
}

// All lists the benchmarks in the order in which they run.
func All() []Benchmark {
	return []Benchmark{
		{"env", "environment steps on one core", runEnv},
		{"act", "batched policy steps", runAct},
		{"learn", "train steps of the bench sizes S and M and of the presets", runLearn},
		{"replay", "sampling while ingesting, restart, bytes a step", runReplay},
		{"ingest", "chunks from actors over the bus to the disk", runIngest},
		{"broadcast", "parameters from the learner to actors", runBroadcast},
		{"dispatch", "decisions over HTTP, and how long they take at half of the target", runDispatch},
		{"train", "all roles together against the learner alone", runTrain},
	}
}

// rounds measures value and limit in turns. Each returns a figure of the same
// unit; a nil limit leaves limit and ratio zero.
func (o *Options) rounds(ctx context.Context, value, limit func() (float64, error)) (r Result, err error) {
	var values, limits, ratios []float64
	for i := range o.Rounds + 1 {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		v, err := value()
		if err != nil {
			return r, err
		}
		l := 0.0
		if limit != nil {
			if l, err = limit(); err != nil {
				return r, err
			}
		}
		if i == 0 {
			continue // warm-up
		}
		values = append(values, v)
		if limit != nil {
			limits, ratios = append(limits, l), append(ratios, v/l)
		}
	}
	r = Result{Value: median(values), Limit: median(limits), LimitKind: "none", Ratio: median(ratios)}
	return r, nil
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// perSecond runs f, which makes n of something, again and again for about
// length, and returns how many a second.
func perSecond(length time.Duration, n int, f func() error) (float64, error) {
	start := time.Now()
	for made := n; ; made += n {
		if err := f(); err != nil {
			return 0, err
		}
		if d := time.Since(start); d >= length {
			return float64(made) / d.Seconds(), nil
		}
	}
}

// milliseconds is the mean time that f takes.
func milliseconds(length time.Duration, f func() error) (float64, error) {
	rate, err := perSecond(length, 1, f)
	return 1e3 / rate, err
}
