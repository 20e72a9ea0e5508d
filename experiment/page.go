package experiment

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/monitor"
)

// Page is the report on one or more experiments and files of scores: what the HTML page shows, and its JSON. The same
// input gives the same bytes.
type Page struct {
	Experiments []*Section       `json:"experiments"`
	Scores      []*ScoresSection `json:"score_files,omitempty"`

	colors map[string]int // of methods, from 1, the same in all of the page
}

// Section is the report on one experiment.
type Section struct {
	Manifest Manifest `json:"manifest"`
	Folder   string   `json:"folder"` // from the page
	Notes    []string `json:"notes,omitempty"`
	Cells    []Cell   `json:"scores"`
	Groups   []Group  `json:"groups"`

	Learning    []Learning   `json:"learning_curves,omitempty"`
	Reached     []Reached    `json:"reached_left,omitempty"`
	Sequences   []Sequence   `json:"sequences,omitempty"`
	Profiles    []ProfileOf  `json:"performance_profiles,omitempty"`
	Improvement []Comparison `json:"probability_of_improvement,omitempty"`
	Runs        []RunLinks   `json:"runs"`

	Links Links `json:"-"`
	p     *pairing
	page  *Page
}

// Cell is what a policy got in one episode of a test.
type Cell struct {
	Method          string    `json:"method"`
	Mode            string    `json:"mode"`
	Test            string    `json:"test"`
	Inside          bool      `json:"inside"`
	Stage           int       `json:"stage"`
	After           string    `json:"after,omitempty"`
	Episode         int       `json:"episode"`
	TrainingSeeds   []uint64  `json:"training_seeds,omitempty"`
	EvaluationSeeds string    `json:"evaluation_seeds"`
	MeanJCT         float64   `json:"mean_jct"`
	Ratio           Estimates `json:"ratio_to_left"`
	Final           bool      `json:"final"` // the last episode after all training: what counts
}

// Group is what policies got over the tests inside, or outside, the training distribution: the last episode of a trial
// after all training.
type Group struct {
	Name  string      `json:"name"`
	Tests []string    `json:"tests"`
	Rows  []GroupCell `json:"rows"`
}

// GroupCell is a policy's line of a group.
type GroupCell struct {
	Method        string    `json:"method"`
	Mode          string    `json:"mode"`
	TrainingSeeds []uint64  `json:"training_seeds,omitempty"`
	Ratio         Estimates `json:"ratio_to_left"`
}

// ProfileOf are the performance profiles of policies over a group of tests.
type ProfileOf struct {
	Group      string          `json:"group"`
	Mode       string          `json:"mode"`
	Thresholds []float64       `json:"thresholds"` // ratios to LEFT
	Policies   []PolicyProfile `json:"policies"`
}

// PolicyProfile is the share of episodes at or below each threshold.
type PolicyProfile struct {
	Method string     `json:"method"`
	Share  []Interval `json:"share"`
}

// Comparison is the probability that a method's policy has a lower mean job completion time than another policy on the
// same jobs, over all tests that both were scored on.
type Comparison struct {
	Method      string   `json:"method"`
	Mode        string   `json:"mode"`
	Against     string   `json:"against"`
	AgainstMode string   `json:"against_mode"`
	Tests       int      `json:"tests"`
	Lower       Interval `json:"probability_of_improvement"`
	runs        int      // the fewer of both; heuristics do not count
}

// RunLinks is a training run and where its files are, from the page.
type RunLinks struct {
	Job    Job    `json:"job"`
	Folder string `json:"folder"`
	Scores string `json:"scores,omitempty"`
	Curve  string `json:"curve,omitempty"`
	Record string `json:"record"`
}

// Links are an experiment's own files, from the page.
type Links struct{ Manifest, Rules string }

// NewPage computes the report on experiments and files of scores. out is the file that the page goes to, from which its
// links lead to the raw scores.
func NewPage(folders []*Folder, files []ScoresFileContent, out string) (*Page, error) {
	page := &Page{colors: map[string]int{}}
	base, err := filepath.Abs(filepath.Dir(out))
	if err != nil {
		return nil, err
	}
	link := func(path string) string {
		if absolute, err := filepath.Abs(path); err == nil {
			if relative, err := filepath.Rel(base, absolute); err == nil {
				return filepath.ToSlash(relative)
			}
		}
		return filepath.ToSlash(path)
	}
	for _, f := range folders {
		s := &Section{Manifest: f.Manifest, Folder: link(f.Dir), p: pair(f), page: page,
			Links: Links{link(filepath.Join(f.Dir, ManifestFile)), link(filepath.Join(f.Dir, RulesFile))}}
		for _, m := range s.p.methods {
			page.color(m)
		}
		for _, run := range f.Runs {
			links := RunLinks{Job: run.Job, Folder: link(run.Dir), Record: link(filepath.Join(run.Dir, JobFile))}
			if len(run.Results) > 0 {
				links.Scores = link(filepath.Join(run.Dir, ScoresFile))
			}
			if len(run.Curve.Steps) > 0 {
				links.Curve = link(filepath.Join(run.Dir, CurveFile))
			}
			s.Runs = append(s.Runs, links)
		}
		s.compute()
		page.Experiments = append(page.Experiments, s)
	}
	for _, file := range files {
		page.Scores = append(page.Scores, newScoresSection(page, file, link(file.Path)))
	}
	return page, nil
}

// color numbers methods in the order in which they come.
func (p *Page) color(method string) int {
	if p.colors[method] == 0 {
		p.colors[method] = len(p.colors) + 1
	}
	return p.colors[method]
}

// compute does all of the statistics, those that take time on all processors.
func (s *Section) compute() {
	p := s.p
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	do := func(f func()) { work.Go(func() error { f(); return nil }) }

	keys := slices.Collect(maps.Keys(p.ratios))
	order := func(names []string, name string) int { return slices.Index(names, name) }
	var tests []string
	for _, t := range p.tests {
		tests = append(tests, t.Name)
	}
	names, modes := slices.Concat(p.methods, p.rules), []string{Greedy, Sampled, Rule}
	slices.SortFunc(keys, func(a, b played) int {
		return cmp.Or(order(tests, a.test)-order(tests, b.test), order(modes, a.mode)-order(modes, b.mode),
			order(names, a.method)-order(names, b.method), a.stage-b.stage, a.episode-b.episode)
	})
	s.Cells = make([]Cell, len(keys))
	for i, k := range keys {
		test := p.tests[order(tests, k.test)]
		c := Cell{Method: k.method, Mode: k.mode, Test: k.test, Inside: test.Inside, Stage: k.stage, Episode: k.episode,
			EvaluationSeeds: test.Seeds, Final: k == p.final(k.method, k.mode, test)}
		if k.stage > 0 && k.stage <= len(p.Manifest.Stages) && k.mode != Rule {
			c.After = p.Manifest.Stages[k.stage-1]
		}
		seeds := p.seeds(k)
		if k.mode != Rule {
			c.TrainingSeeds = seeds
		}
		var jct []float64
		for _, seed := range seeds {
			jct = append(jct, p.jct[k][seed])
		}
		c.MeanJCT = Mean(jct)
		s.Cells[i] = c
		do(func() {
			sample, _ := p.sample(k, seeds)
			s.Cells[i].Ratio = Estimate(sample)
		})
	}
	inside, outside := p.grouped()
	for _, g := range []struct {
		name  string
		tests []TestInfo
	}{{"inside", inside}, {"outside", outside}} {
		if len(g.tests) > 0 {
			s.group(g.name, g.tests, do)
		}
	}
	s.compare(do)
	s.learn()
	_ = work.Wait() // nothing fails
	s.Sequences = p.sequences()
	s.notes()
}

// group condenses what policies got over several tests.
func (s *Section) group(name string, tests []TestInfo, do func(func())) {
	group := Group{Name: name}
	for _, t := range tests {
		group.Tests = append(group.Tests, t.Name)
	}
	samples := map[policy][]Sample{}
	for _, policy := range s.p.policies() {
		sample, seeds := s.p.finals(policy.name, policy.mode, tests)
		if len(sample) == 0 {
			continue
		}
		samples[policy] = sample
		c := GroupCell{Method: policy.name, Mode: policy.mode}
		if policy.mode != Rule {
			c.TrainingSeeds = seeds
		}
		group.Rows = append(group.Rows, c)
	}
	for i, c := range group.Rows {
		do(func() { group.Rows[i].Ratio = Estimate(samples[policy{c.Method, c.Mode}]...) })
	}
	s.Groups = append(s.Groups, group)

	for _, mode := range []string{Greedy, Sampled} {
		profile := ProfileOf{Group: name, Mode: mode}
		var all []float64
		var drawn []policy
		for _, policy := range s.p.policies() {
			if policy.mode != mode && policy.mode != Rule || samples[policy] == nil {
				continue
			}
			drawn = append(drawn, policy)
			if policy.mode == mode {
				for _, sample := range samples[policy] {
					all = append(all, slices.Concat(sample...)...)
				}
			}
		}
		if len(all) == 0 {
			continue
		}
		slices.Sort(all)
		from, to := sortedQuantile(all, 0.005), sortedQuantile(all, 0.995)
		if !(to > from) {
			from, to = from*0.95, to*1.05
		}
		const thresholds = 80
		for i := range thresholds {
			profile.Thresholds = append(profile.Thresholds, from*math.Pow(to/from, float64(i)/(thresholds-1)))
		}
		profile.Policies = make([]PolicyProfile, len(drawn))
		for i, policy := range drawn {
			do(func() {
				profile.Policies[i] = PolicyProfile{policy.name, Profile(profile.Thresholds, samples[policy]...)}
			})
		}
		s.Profiles = append(s.Profiles, profile)
	}
}

// compare pairs each method with all others and with the rules.
func (s *Section) compare(do func(func())) {
	p := s.p
	var pairs [][2]policy
	for _, a := range p.policies() {
		if a.mode == Rule {
			continue
		}
		for _, b := range p.policies() {
			if a.name != b.name && (b.mode == a.mode || b.mode == Rule) {
				pairs = append(pairs, [2]policy{a, b})
			}
		}
	}
	type both struct{ x, y []Sample }
	var samples []both
	for _, pair := range pairs {
		a, b := pair[0], pair[1]
		var tests []TestInfo
		for _, t := range p.tests {
			if len(p.ratios[p.final(a.name, a.mode, t)]) > 0 && len(p.ratios[p.final(b.name, b.mode, t)]) > 0 {
				tests = append(tests, t)
			}
		}
		x, seeds := p.finals(a.name, a.mode, tests)
		y, others := p.finals(b.name, b.mode, tests)
		if len(x) == 0 || len(y) == 0 {
			continue
		}
		runs := len(seeds)
		if b.mode != Rule {
			runs = min(runs, len(others))
		}
		s.Improvement = append(s.Improvement, Comparison{Method: a.name, Mode: a.mode, Against: b.name, AgainstMode: b.mode, Tests: len(tests), runs: runs})
		samples = append(samples, both{x, y})
	}
	for i, both := range samples {
		do(func() { s.Improvement[i].Lower = Improvement(both.x, both.y) })
	}
}

// learn brings learning curves together.
func (s *Section) learn() {
	for _, mode := range []string{Greedy, Sampled} {
		for _, method := range s.p.methods {
			var steps, minutes []points
			var curves []LearningCurve
			for _, run := range s.p.Runs {
				if run.Method == method && len(run.Curve.Steps) > 0 {
					curves = append(curves, run.Curve)
					steps = append(steps, points{run.Curve.Steps, run.Curve.of(mode)})
					minutes = append(minutes, points{run.Curve.Minutes, run.Curve.of(mode)})
				}
			}
			for _, l := range []Learning{learning(method, mode, "environment_steps", steps), learning(method, mode, "minutes", minutes)} {
				if l.Runs > 0 {
					s.Learning = append(s.Learning, l)
				}
			}
			if r := reached(method, mode, curves); r.Runs > 0 {
				s.Reached = append(s.Reached, r)
			}
		}
	}
}

// fewRuns is how many training runs make an interval over them meaningful at all.
const fewRuns = 3

// notes says what is missing.
func (s *Section) notes() {
	p := s.p
	for _, method := range p.methods {
		var begun, done []uint64
		for _, run := range p.Runs {
			if run.Method == method {
				begun = append(begun, run.Seed)
				if run.Finished != nil {
					done = append(done, run.Seed)
				}
			}
		}
		planned := 0
		if slices.Contains(p.Manifest.Methods, method) {
			planned = len(p.Manifest.Seeds)
		}
		if len(done) < max(planned, len(begun)) {
			p.note("%s: %d of %d training runs are finished.", method, len(done), max(planned, len(begun)))
		}
	}
	var few []string
	for _, method := range p.methods {
		runs := 0
		for _, c := range s.Cells {
			if c.Method == method && c.Final {
				runs = max(runs, len(c.TrainingSeeds))
			}
		}
		if 0 < runs && runs < fewRuns {
			few = append(few, method)
		}
	}
	if len(few) > 0 {
		p.note("Fewer than %d training runs: %s. An interval over so few says nothing about another training run; what stands there covers little more than the jobs.", fewRuns, strings.Join(few, ", "))
	}
	s.Notes = p.notes
}

// WriteJSON writes all that the page shows as one JSON object.
func (p *Page) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(p)
}

// WriteCSV writes the scores of all experiments, a line for what a policy got in an episode of a test.
func (p *Page) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	number := func(v float64) string {
		if math.IsNaN(v) {
			return ""
		}
		return strconv.FormatFloat(v, 'g', 6, 64)
	}
	rows := [][]string{{"experiment", "folder", "method", "mode", "test", "inside", "stage", "after", "episode", "final", "training_seeds",
		"evaluation_seeds", "mean_jct", "ratio_iqm", "ratio_iqm_low", "ratio_iqm_high", "ratio_mean", "ratio_mean_low",
		"ratio_mean_high", "ratio_median", "ratio_median_low", "ratio_median_high"}}
	for _, s := range p.Experiments {
		for _, cell := range s.Cells {
			row := []string{s.Manifest.Name, s.Folder, cell.Method, cell.Mode, cell.Test, strconv.FormatBool(cell.Inside), strconv.Itoa(cell.Stage),
				cell.After, strconv.Itoa(cell.Episode), strconv.FormatBool(cell.Final), strings.Trim(fmt.Sprint(cell.TrainingSeeds), "[]"),
				cell.EvaluationSeeds, number(cell.MeanJCT)}
			for _, i := range []Interval{cell.Ratio.IQM, cell.Ratio.Mean, cell.Ratio.Median} {
				row = append(row, number(i.Value), number(i.Low), number(i.High))
			}
			rows = append(rows, row)
		}
	}
	return c.WriteAll(rows)
}

// ScoresFileContent is a file of learning curves in the format of DreamerV3's published scores.
type ScoresFileContent struct {
	Path   string
	Curves []monitor.Scores
}
