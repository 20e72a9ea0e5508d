package experiment

import (
	"math"
	"slices"
)

// Learning is a method's learning curve over its training runs, at points that all runs reached.
type Learning struct {
	Method string        `json:"method"`
	Mode   string        `json:"mode"`
	X      string        `json:"x"` // environment_steps or minutes
	Runs   int           `json:"runs"`
	At     []float64Null `json:"at"`
	Ratio  []Interval    `json:"ratio_to_left"` // IQM over the runs' IQMs; an interval needs three runs

	each []points // of the runs, y in logarithms
}

type points struct{ x, y []float64 }

// learningPoints is how finely curves of runs, evaluated at different times, are brought together.
const learningPoints = 60

// learning brings the curves of a method's runs together: each is interpolated between its evaluations, ratios in
// logarithms, since they fall from tens to one. Nothing is drawn beyond what every run has reached.
func learning(method, mode, x string, curves []points) Learning {
	l := Learning{Method: method, Mode: mode, X: x}
	from, to := math.Inf(-1), math.Inf(1)
	for _, c := range curves {
		var known points
		for i, y := range c.y {
			if y > 0 && !math.IsInf(y, 1) && !math.IsNaN(c.x[i]) {
				known.x, known.y = append(known.x, c.x[i]), append(known.y, math.Log(y))
			}
		}
		if len(known.x) > 0 {
			l.each = append(l.each, known)
			from, to = max(from, known.x[0]), min(to, known.x[len(known.x)-1])
		}
	}
	if l.Runs = len(l.each); l.Runs == 0 || from > to {
		return l
	}
	for _, at := range l.grid(from, to) {
		sample := make(Sample, l.Runs)
		for s, c := range l.each {
			sample[s] = []float64{math.Exp(linear(c, at))}
		}
		ratio := Estimate(sample).IQM
		if l.Runs < fewRuns {
			ratio.Low, ratio.High = math.NaN(), math.NaN()
		}
		l.At, l.Ratio = append(l.At, float64Null(at)), append(l.Ratio, ratio)
	}
	return l
}

// grid is where the curve is drawn: at the evaluations of a single run, else evenly, by logarithm where curves span
// more than a decade so that their beginning is not lost.
func (l Learning) grid(from, to float64) []float64 {
	if l.Runs == 1 {
		return l.each[0].x
	}
	if from == to {
		return []float64{from}
	}
	at := make([]float64, learningPoints)
	for i := range at {
		share := float64(i) / (learningPoints - 1)
		if from > 0 && to > 10*from {
			at[i] = from * math.Pow(to/from, share)
		} else {
			at[i] = from + share*(to-from)
		}
	}
	at[learningPoints-1] = to
	return at
}

// Reached tells when a method's runs first had a ratio to LEFT of at most 1, and from when on they always had.
type Reached struct {
	Method  string   `json:"method"`
	Mode    string   `json:"mode"`
	Runs    int      `json:"runs"`
	Passed  int      `json:"runs_that_passed"` // at an evaluation
	Stayed  int      `json:"runs_that_stayed"` // to the end
	First   Duration `json:"first"`            // median of the runs that passed
	Forever Duration `json:"for_good"`         // median of those that stayed
}

// Duration is how long something was trained.
type Duration struct {
	Steps   float64Null `json:"environment_steps"`
	Minutes float64Null `json:"minutes"`
}

func reached(method, mode string, curves []LearningCurve) Reached {
	r := Reached{Method: method, Mode: mode}
	var first, forever points // steps and minutes
	for _, c := range curves {
		y := c.of(mode)
		if len(y) == 0 || math.IsNaN(y[len(y)-1]) {
			continue
		}
		r.Runs++
		at := slices.IndexFunc(y, func(v float64) bool { return v <= 1 })
		if at < 0 {
			continue
		}
		r.Passed++
		first.x, first.y = append(first.x, c.Steps[at]), append(first.y, c.Minutes[at])
		if y[len(y)-1] > 1 {
			continue
		}
		for at = len(y) - 1; at > 0 && y[at-1] <= 1; at-- {
		}
		r.Stayed++
		forever.x, forever.y = append(forever.x, c.Steps[at]), append(forever.y, c.Minutes[at])
	}
	r.First = Duration{float64Null(Median(first.x)), float64Null(Median(first.y))}
	r.Forever = Duration{float64Null(Median(forever.x)), float64Null(Median(forever.y))}
	return r
}
