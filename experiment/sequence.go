package experiment

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
)

// Sequence is what a method kept and what it carried over while it was trained on one task after another, by one
// measure. All lists are by task, in the order of training; intervals are over training seeds.
type Sequence struct {
	Method    string `json:"method"`
	Mode      string `json:"mode,omitempty"`
	Measure   string `json:"measure"`
	Reference string `json:"reference"` // what has performance 1
	Runs      int    `json:"runs"`

	Performance [][]float64Null `json:"performance"` // [task][stage], the mean over runs
	Forgetting  []float64Null   `json:"forgetting"`
	Transfer    []float64Null   `json:"forward_transfer"`
	Forgotten   Interval        `json:"mean_forgetting"`
	Transferred Interval        `json:"mean_forward_transfer"`
}

// Measures of a Sequence. Those of a world model's losses end in the loss's name; a raw one is the loss itself with its
// sign changed, on no scale, so that forgetting is by how much it has risen.
const (
	measureReturn    = "return"
	measureLogReturn = "log return"
	measureModel     = "model: "
	measureRaw       = "model, raw: "
)

// loss is the name of the world model's loss that a measure is of.
func loss(measure string) (name string, ok bool) {
	if name, ok = strings.CutPrefix(measure, measureRaw); ok {
		return name, true
	}
	return strings.CutPrefix(measure, measureModel)
}

// scored is a run's score by a measure, of which less is better, on one test.
type scored struct {
	stage int
	steps int64
	score float64
}

// score reads a measure off a result: the IQM of the ratios to LEFT, or a loss of the world model.
func (p *pairing) score(measure string, r Result) (float64, bool) {
	if name, ok := loss(measure); ok {
		value, ok := r.Model[name]
		return value, ok
	}
	test := p.tests[slices.IndexFunc(p.tests, func(t TestInfo) bool { return t.Name == r.Test })]
	if r.Episode != test.Episodes || r.Seeds != test.Seeds {
		return 0, false
	}
	i := slices.IndexFunc(p.Rules, func(l Result) bool {
		return l.Method == left && l.Test == r.Test && l.Episode == r.Episode && l.Seeds == r.Seeds
	})
	if i < 0 {
		return 0, false
	}
	return IQM(over(r.MeanJCT, p.Rules[i].MeanJCT)), true
}

// scoredOn lists a run's scores on a test, by stage and steps.
func (p *pairing) scoredOn(run FolderRun, mode, measure, test string) []scored {
	var out []scored
	for _, r := range run.Results {
		if r.Test != test || r.Mode != mode {
			continue
		}
		if v, ok := p.score(measure, r); ok && !slices.ContainsFunc(out, func(s scored) bool { return s.stage == r.Stage && s.steps == r.Steps }) {
			out = append(out, scored{r.Stage, r.Steps, v})
		}
	}
	slices.SortStableFunc(out, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.steps, b.steps))
	})
	return out
}

// alone are the runs that were trained on nothing but a task, to compare a method's sequence with: those of the method
// that is named after both, METHOD-TASK, or else of any.
func (p *pairing) alone(method, task string) (runs []FolderRun, name string) {
	var found []FolderRun
	for _, run := range p.Runs {
		other := func(r Result) bool { return r.Stage > 1 || r.Stage == 1 && r.After != task }
		if len(run.Results) > 0 && !slices.ContainsFunc(run.Results, other) && slices.ContainsFunc(run.Results, func(r Result) bool { return r.Stage == 1 }) &&
			p.last[run.Method] == 1 {
			found = append(found, run)
		}
	}
	best := ""
	for _, run := range found {
		if run.Method == method+"-"+task || run.Method == method+"_"+task || best == "" {
			best = run.Method
		}
	}
	found = slices.DeleteFunc(found, func(r FolderRun) bool { return r.Method != best })
	return found, best
}

// sequences judges every method that was trained on all tasks of a sequence of at least two.
func (p *pairing) sequences() []Sequence {
	tasks := p.Manifest.Stages
	if len(tasks) < 2 {
		return nil
	}
	for _, task := range tasks {
		if !slices.ContainsFunc(p.tests, func(t TestInfo) bool { return t.Name == task }) {
			p.note("Forgetting is not reported: the task %s of the sequence is not among the tests.", task)
			return nil
		}
	}
	var out []Sequence
	for _, method := range p.methods {
		var runs []FolderRun
		losses := map[string]bool{}
		for _, run := range p.Runs {
			if run.Method != method || !slices.ContainsFunc(run.Results, func(r Result) bool { return r.Stage == len(tasks) }) {
				continue
			}
			runs = append(runs, run)
			for _, r := range run.Results {
				for name := range r.Model {
					losses[name] = true
				}
			}
		}
		for _, mode := range []string{Greedy, Sampled} {
			measures := []string{measureReturn, measureLogReturn}
			ofModel := func(s Sequence) bool { _, ok := loss(s.Measure); return ok && s.Method == method }
			if !slices.ContainsFunc(out, ofModel) { // with whichever mode they stand
				for _, name := range slices.Sorted(maps.Keys(losses)) {
					measures = append(measures, measureModel+name, measureRaw+name)
				}
			}
			for _, measure := range measures {
				if s, ok := p.sequence(method, mode, measure, runs); ok {
					out = append(out, s)
				}
			}
		}
	}
	return out
}

// sequence judges a method's runs by one measure, and reports false where it was not measured after every stage.
func (p *pairing) sequence(method, mode, measure string, runs []FolderRun) (Sequence, bool) {
	tasks := p.Manifest.Stages
	s := Sequence{Method: method, Mode: mode, Measure: measure, Performance: make([][]float64Null, len(tasks))}
	if _, ok := loss(measure); ok {
		s.Mode = ""
	}
	var references []string
	perRun := make([][][]float64, 0, len(runs)) // [run][task][stage]
	transfer := make([][]float64, 0, len(runs))
	kept := runs[:0:0]
	for _, run := range runs {
		complete := true
		for _, task := range tasks {
			on := p.scoredOn(run, mode, measure, task)
			for k := 1; k <= len(tasks); k++ {
				complete = complete && slices.ContainsFunc(on, func(s scored) bool { return s.stage == k })
			}
		}
		if complete {
			kept = append(kept, run)
		}
	}
	if len(kept) == 0 {
		return s, false
	}
	scales := make([]scale, len(tasks))
	for i, task := range tasks {
		var name string
		scales[i], name = p.scale(method, mode, measure, task, i, kept)
		if !slices.Contains(references, name) {
			references = append(references, name)
		}
	}
	s.Reference = strings.Join(references, ", ")
	for _, run := range kept {
		performance, gained := make([][]float64, len(tasks)), make([]float64, len(tasks))
		for i, task := range tasks {
			on := p.scoredOn(run, mode, measure, task)
			performance[i] = make([]float64, len(tasks)+1)
			for k := range performance[i] {
				performance[i][k] = math.NaN()
				for _, at := range on { // the latest of a stage counts
					if at.stage == k {
						performance[i][k] = scales[i].performance(measure, at.score)
					}
				}
			}
			gained[i] = ForwardTransfer(scales[i].areaOf(measure, scales[i].during(on, i)), scales[i].area)
		}
		perRun, transfer = append(perRun, performance), append(transfer, gained)
	}
	s.Runs = len(kept)
	forgotten, transferred := make(Sample, len(kept)), make(Sample, len(kept))
	byTask, gainedByTask := make([][]float64, len(tasks)), make([][]float64, len(tasks))
	for r := range kept {
		lost := Forgetting(perRun[r])
		forgotten[r], transferred[r] = []float64{Mean(lost)}, []float64{Mean(transfer[r])}
		for i := range tasks {
			byTask[i], gainedByTask[i] = append(byTask[i], lost[i]), append(gainedByTask[i], transfer[r][i])
		}
	}
	for i := range tasks {
		s.Forgetting = append(s.Forgetting, float64Null(Mean(byTask[i])))
		s.Transfer = append(s.Transfer, float64Null(Mean(gainedByTask[i])))
		for k := 0; k <= len(tasks); k++ {
			var all []float64
			for r := range kept {
				all = append(all, perRun[r][i][k])
			}
			s.Performance[i] = append(s.Performance[i], float64Null(Mean(all)))
		}
	}
	s.Forgotten, s.Transferred = Estimate(forgotten).Mean, Estimate(transferred).Mean
	return s, true
}

// during are the scores on task i from the end of the training before it to the end of its own. Before any training
// play is random.
func (s scale) during(on []scored, i int) []scored {
	var from, to int64 = -1, -1
	for _, at := range on {
		if at.stage <= i {
			from = max(from, at.steps)
		}
		if at.stage == i+1 {
			to = max(to, at.steps)
		}
	}
	var out []scored
	if from < 0 && i == 0 {
		from, out = 0, []scored{{0, 0, s.random}}
	}
	for _, at := range on {
		if from >= 0 && from <= at.steps && at.steps <= to && at.stage <= i+1 {
			out = append(out, at)
		}
	}
	return out
}

// scale is what a task's scores are measured by.
type scale struct {
	random, reference float64
	area              float64 // under the performance of training on the task alone
}

func (s scale) performance(measure string, score float64) float64 {
	switch {
	case measure == measureLogReturn:
		return LogPerformance(score, s.random, s.reference)
	case strings.HasPrefix(measure, measureRaw):
		return -score
	}
	return Performance(score, s.random, s.reference)
}

func (s scale) areaOf(measure string, curve []scored) float64 {
	var x, y []float64
	for _, c := range curve {
		x, y = append(x, float64(c.steps)), append(y, s.performance(measure, c.score))
	}
	return AreaUnder(x, y)
}

// scale finds what has performance 0 and 1 on a task: random play, or the untrained networks where that was not scored
// or where the measure is a loss, or else the networks trained on other tasks alone; and the runs trained on the task alone, or those of the sequence right after they
// were trained on it where there are none, which leaves nothing to measure forward transfer by.
func (p *pairing) scale(method, mode, measure, task string, i int, runs []FolderRun) (scale, string) {
	at := func(runs []FolderRun, test string, stage int) float64 {
		var values []float64
		for _, run := range runs {
			on := p.scoredOn(run, mode, measure, test)
			for k := len(on) - 1; k >= 0; k-- {
				if on[k].stage == stage {
					values = append(values, on[k].score)
					break
				}
			}
		}
		return Mean(values)
	}
	s := scale{random: math.NaN(), area: math.NaN()}
	if _, ok := loss(measure); !ok {
		for _, r := range p.Rules {
			if r.Method == "random" && r.Test == task {
				if v, ok := p.score(measure, r); ok {
					s.random = v
				}
			}
		}
	}
	if math.IsNaN(s.random) {
		s.random = at(runs, task, 0)
	}
	if math.IsNaN(s.random) {
		var strangers []float64
		for _, other := range p.Manifest.Stages {
			if runs, _ := p.alone(method, other); other != task {
				if v := at(runs, task, 1); !math.IsNaN(v) {
					strangers = append(strangers, v)
				}
			}
		}
		s.random = Mean(strangers)
	}
	alone, name := p.alone(method, task)
	s.reference = at(alone, task, 1)
	if math.IsNaN(s.reference) {
		s.reference = at(runs, task, i+1)
		return s, "the method itself, right after the task"
	}
	var areas []float64
	for _, run := range alone {
		areas = append(areas, s.areaOf(measure, s.during(p.scoredOn(run, mode, measure, task), 0)))
	}
	s.area = Mean(areas)
	return s, name
}
