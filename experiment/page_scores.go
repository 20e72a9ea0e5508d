package experiment

import (
	"math"
	"slices"

	"github.com/dreamfleet/dreamfleet/monitor"
)

// ScoresSection is the report on a file of DreamerV3's format: scores of which more is better, in each task's own unit.
type ScoresSection struct {
	File  string      `json:"file"` // from the page
	Tasks []TaskScore `json:"tasks"`
	page  *Page
}

// TaskScore is what methods got on a task.
type TaskScore struct {
	Task    string        `json:"task"`
	Methods []MethodScore `json:"methods"`
}

// MethodScore is a method's learning curve on a task and its score at the end.
type MethodScore struct {
	Method string        `json:"method"`
	Runs   int           `json:"runs"`
	Steps  float64       `json:"steps"` // that every run has reached
	At     []float64Null `json:"at"`
	Score  []Interval    `json:"score"` // IQM over the runs; an interval needs three
	Final  Estimates     `json:"final"` // over the runs, of their means over the last tenth of the steps
	each   []points
}

func newScoresSection(page *Page, file ScoresFileContent, link string) *ScoresSection {
	s := &ScoresSection{File: link, page: page}
	for _, c := range file.Curves {
		page.color(c.Method)
		i := slices.IndexFunc(s.Tasks, func(t TaskScore) bool { return t.Task == c.Task })
		if i < 0 {
			i = len(s.Tasks)
			s.Tasks = append(s.Tasks, TaskScore{Task: c.Task})
		}
		task := &s.Tasks[i]
		j := slices.IndexFunc(task.Methods, func(m MethodScore) bool { return m.Method == c.Method })
		if j < 0 {
			j = len(task.Methods)
			task.Methods = append(task.Methods, MethodScore{Method: c.Method})
		}
		if p := finite(c); len(p.x) > 0 {
			task.Methods[j].each = append(task.Methods[j].each, p)
		}
	}
	for i := range s.Tasks {
		s.Tasks[i].Methods = slices.DeleteFunc(s.Tasks[i].Methods, func(m MethodScore) bool { return len(m.each) == 0 })
		for j := range s.Tasks[i].Methods {
			s.Tasks[i].Methods[j].compute()
		}
	}
	return s
}

// finite are the points of a curve that are numbers, with the steps ascending.
func finite(c monitor.Scores) points {
	var p points
	for i, y := range c.Ys {
		if x := c.Xs[i]; !math.IsNaN(y) && !math.IsInf(y, 0) && (len(p.x) == 0 || x > p.x[len(p.x)-1]) {
			p.x, p.y = append(p.x, x), append(p.y, y)
		}
	}
	return p
}

// compute brings the runs together, on the range of steps that all have.
func (m *MethodScore) compute() {
	m.Runs = len(m.each)
	from, to := math.Inf(-1), math.Inf(1)
	for _, c := range m.each {
		from, to = max(from, c.x[0]), min(to, c.x[len(c.x)-1])
	}
	m.Steps = to
	ends := make(Sample, m.Runs)
	for s, c := range m.each {
		var last []float64
		for i, x := range c.x {
			if x >= 0.9*to && x <= to {
				last = append(last, c.y[i])
			}
		}
		if len(last) == 0 {
			last = []float64{linear(c, to)}
		}
		ends[s] = []float64{Mean(last)}
	}
	m.Final = Estimate(ends)
	if from > to {
		return
	}
	for i := range learningPoints {
		at := from + (to-from)*float64(i)/(learningPoints-1)
		sample := make(Sample, m.Runs)
		for s, c := range m.each {
			sample[s] = []float64{linear(c, at)}
		}
		score := Estimate(sample).IQM
		if m.Runs < fewRuns {
			score.Low, score.High = math.NaN(), math.NaN()
		}
		m.At, m.Score = append(m.At, float64Null(at)), append(m.Score, score)
		if from == to {
			return
		}
	}
}

// linear interpolates between points, within their range.
func linear(c points, x float64) float64 {
	i, found := slices.BinarySearch(c.x, x)
	switch {
	case found:
		return c.y[i]
	case i == 0:
		return c.y[0]
	case i == len(c.x):
		return c.y[i-1]
	}
	return c.y[i-1] + (x-c.x[i-1])/(c.x[i]-c.x[i-1])*(c.y[i]-c.y[i-1])
}
