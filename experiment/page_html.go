package experiment

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"number":  number,
	"between": between,
	"join":    join[uint64],
	"commas":  func(names []string) string { return strings.Join(names, ", ") },
	"percent": func(v float64) string { return strconv.FormatFloat(100*v, 'f', 0, 64) },
	"gib":     func(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) },
	"minute":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"short":   func(id string) string { return id[:min(12, len(id))] },
	"count":   func(v float64Null) string { return count(float64(v)) },
	"steps":   steps,
	"hours":   func(seconds float64) string { return fmt.Sprintf("%.2f", seconds/3600) },
	"dash":    func(color int) string { return dashes[(color-1)/monitor.Colors%len(dashes)] },
	"class":   func(color int) int { return (color-1)%monitor.Colors + 1 },
	"few":     func(runs int) bool { return runs < fewRuns },
}).Parse(pageHTML))

var dashes = []string{"", "4 2", "8 2"}

// WriteHTML writes the page: one file that asks for no other.
func (p *Page) WriteHTML(w io.Writer) error { return pageTemplate.Execute(w, p) }

// number writes a value with the digits that a reader needs.
func number(v any) string {
	var f float64
	switch v := v.(type) {
	case float64:
		f = v
	case float64Null:
		f = float64(v)
	}
	switch a := math.Abs(f); {
	case math.IsNaN(f):
		return "–"
	case a >= 1000:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strings.Replace(strconv.FormatFloat(f, 'f', 3, 64), "-0.000", "0.000", 1)
}

func between(i Interval) string {
	if math.IsNaN(i.Low) {
		return ""
	}
	return number(i.Low) + " to " + number(i.High)
}

// count writes steps, in thousands where there are many.
func count(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	text := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

func steps(v any) string {
	switch v := v.(type) {
	case int64:
		return count(float64(v))
	case float64:
		return count(v)
	}
	return "–"
}

// Legend lists the page's methods with their colours, in the order of the experiment.
func (s *Section) Legend() []legend {
	var out []legend
	for _, m := range s.p.methods {
		out = append(out, legend{m, s.page.color(m)})
	}
	return out
}

type legend struct {
	Name  string
	Color int
}

// table is a list of policies with their ratios to LEFT.
type table struct {
	Title, Text string
	Rows        []row
	Axis        axis
	JCT         bool // there is a mean job completion time, which several tests do not share
}

type row struct {
	Name  string
	Color int // 0 for a rule
	Runs  int // 0 for a rule
	JCT   float64
	Ratio Estimates
	Bar   bar
}

// Few reports whether the interval over training runs is of too few.
func (r row) Few() bool { return r.Color > 0 && r.Runs < fewRuns }

// axis places values on a strip from 0 to 100.
type axis struct {
	low, high float64
	log       bool
}

// bar is an interval on the strip, in per cent of its width. Beyond: it lies to the right of the strip.
type bar struct {
	Left, Width, Dot float64
	Beyond           bool
}

// newAxis holds all intervals but those at more than three times the median and 1: random play at 25 would leave no room
// for differences of hundredths.
func newAxis(intervals []Interval) axis {
	var values []float64
	for _, i := range intervals {
		values = append(values, i.Value)
	}
	limit := 3 * max(1, Median(values))
	a := axis{low: 1, high: 1}
	for _, i := range intervals {
		if i.Value > limit {
			continue
		}
		for _, v := range []float64{i.Value, i.Low, i.High} {
			if !math.IsNaN(v) {
				a.low, a.high = min(a.low, v), max(a.high, v)
			}
		}
	}
	a.log = a.low > 0 && a.high > 3*a.low
	if a.log {
		a.low, a.high = a.low/1.05, a.high*1.05
	} else {
		room := max(0.05*(a.high-a.low), 0.005)
		a.low, a.high = a.low-room, a.high+room
	}
	return a
}

func (a axis) at(v float64) float64 {
	if a.log {
		return 100 * math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return 100 * (v - a.low) / (a.high - a.low)
}

func (a axis) bar(i Interval) bar {
	if !(i.Value <= a.high) {
		return bar{Beyond: true}
	}
	b := bar{Dot: a.at(i.Value), Left: a.at(i.Value)}
	if !math.IsNaN(i.Low) {
		b.Left, b.Width = a.at(i.Low), a.at(i.High)-a.at(i.Low)
	}
	return b
}

// One is where 1 stands.
func (a axis) One() float64 { return a.at(1) }

// Ends are the values at the ends of the strip, and what lies between them.
func (a axis) Ends() [3]string {
	between := ""
	if a.log {
		between = "log"
	}
	return [3]string{strconv.FormatFloat(a.low, 'f', 2, 64), between, strconv.FormatFloat(a.high, 'f', 2, 64)}
}

// finish sorts rows, the best first, and places their bars.
func (t *table) finish() {
	slices.SortStableFunc(t.Rows, func(a, b row) int { return cmp.Compare(a.Ratio.IQM.Value, b.Ratio.IQM.Value) })
	var all []Interval
	for _, r := range t.Rows {
		all = append(all, r.Ratio.IQM)
	}
	t.Axis = newAxis(all)
	for i := range t.Rows {
		t.Rows[i].Bar = t.Axis.bar(t.Rows[i].Ratio.IQM)
	}
}

func (s *Section) row(method, mode string, runs int, ratio Estimates) row {
	r := row{Name: policy{method, mode}.String(), Runs: runs, Ratio: ratio, JCT: math.NaN()}
	if mode != Rule {
		r.Color = s.page.color(method)
	}
	return r
}

// GroupTables condense the tests inside and outside the training distribution, where there is more than one.
func (s *Section) GroupTables() []table {
	var out []table
	for _, g := range s.Groups {
		if len(g.Tests) < 2 {
			continue
		}
		t := table{Title: fmt.Sprintf("All %d tests %s the training distribution", len(g.Tests), g.Name), Text: strings.Join(g.Tests, ", ")}
		for _, c := range g.Rows {
			t.Rows = append(t.Rows, s.row(c.Method, c.Mode, len(c.TrainingSeeds), c.Ratio))
		}
		t.finish()
		out = append(out, t)
	}
	return out
}

// TestTables have the final scores of each test.
func (s *Section) TestTables() []table {
	var out []table
	for _, test := range s.p.tests {
		where := "inside"
		if !test.Inside {
			where = "outside"
		}
		t := table{Title: test.Name, JCT: true, Text: fmt.Sprintf("%s the training distribution; evaluation seeds %s", where, test.Seeds)}
		if test.Episodes > 1 {
			t.Text += fmt.Sprintf("; episode %d of %d of a trial", test.Episodes, test.Episodes)
		}
		for _, c := range s.Cells {
			if c.Test == test.Name && c.Final {
				r := s.row(c.Method, c.Mode, len(c.TrainingSeeds), c.Ratio)
				r.JCT = c.MeanJCT
				t.Rows = append(t.Rows, r)
			}
		}
		if len(t.Rows) > 0 {
			t.finish()
			out = append(out, t)
		}
	}
	return out
}

// figure is a chart with what a reader must know to read it.
type figure struct {
	Title, Text string
	SVG         template.HTML
	References  []reference // named here and not in the drawing
}

// reference is a heuristic with the dashes of its line.
type reference struct{ Name, Dashes string }

func newFigure(c monitor.Chart, text string) (figure, error) {
	svg, err := c.SVG()
	return figure{Title: c.Title, Text: text, SVG: template.HTML(svg)}, err
}

// references adds rules to a chart as levels where they lie near what is drawn, and returns a sentence about those that
// do not.
func references(c *monitor.Chart, levels []monitor.Level) string {
	low, high := math.Inf(1), math.Inf(-1)
	for _, curve := range c.Curves {
		for _, values := range [][]float64{curve.Y, curve.Low, curve.High} {
			for _, v := range values {
				if !math.IsNaN(v) {
					low, high = min(low, v), max(high, v)
				}
			}
		}
	}
	var beyond []string
	for _, l := range levels {
		if low/1.25 <= l.Y && l.Y <= high*1.25 {
			c.Levels = append(c.Levels, l)
		} else {
			beyond = append(beyond, fmt.Sprintf("%s (%s)", l.Name, number(l.Y)))
		}
	}
	c.LogY = high > 3*low
	if len(beyond) > 0 {
		return " Beyond the axis: " + strings.Join(beyond, ", ") + "."
	}
	return ""
}

// LearningFigures draw the learning curves by environment steps and by minutes.
func (s *Section) LearningFigures() ([]figure, error) {
	var levels []monitor.Level
	for _, g := range s.Groups {
		if g.Name == "inside" || len(s.Groups) == 1 {
			for _, c := range g.Rows {
				if c.Mode == Rule {
					levels = append(levels, monitor.Level{Name: c.Method, Y: c.Ratio.IQM.Value})
				}
			}
		}
	}
	var out []figure
	for _, mode := range []string{Greedy, Sampled} {
		for _, x := range []struct{ key, label, by string }{
			{"environment_steps", "environment steps", "environment step"}, {"minutes", "wall-clock time (minutes)", "wall-clock"},
		} {
			c := monitor.Chart{Title: fmt.Sprintf("By %s, %s policy", x.by, mode), XLabel: x.label, YLabel: "ratio to LEFT (IQM)"}
			shortest, longest := math.Inf(1), 0.0
			for _, l := range s.Learning {
				if l.X != x.key || l.Mode != mode {
					continue
				}
				color := s.page.color(l.Method)
				for _, run := range l.each {
					thin := monitor.Curve{Name: l.Method, X: run.x, Color: color, Thin: true}
					for _, y := range run.y {
						thin.Y = append(thin.Y, math.Exp(y))
					}
					c.Curves = append(c.Curves, thin)
				}
				sum := monitor.Curve{Name: l.Method, Color: color}
				for i, r := range l.Ratio {
					sum.X, sum.Y = append(sum.X, float64(l.At[i])), append(sum.Y, r.Value)
					sum.Low, sum.High = append(sum.Low, r.Low), append(sum.High, r.High)
				}
				c.Curves = append(c.Curves, sum)
				if n := len(sum.X); n > 0 {
					shortest, longest = min(shortest, sum.X[n-1]), max(longest, sum.X[n-1])
				}
			}
			if len(c.Curves) == 0 {
				continue
			}
			above := c.Curves
			c.Curves = belowHighest(c.Curves)
			c.LogX = shortest > 0 && longest > 10*shortest
			text := references(&c, levels)
			if !slices.EqualFunc(above, c.Curves, func(a, b monitor.Curve) bool { return len(a.X) == len(b.X) }) {
				text += fmt.Sprintf(" Curves are drawn from where they stay below %g: before, ratios were up to %s.", highestDrawn, number(highest(above)))
			}
			if c.LogX {
				text += " The axis of " + x.label + " is logarithmic."
			}
			f, err := newFigure(c, strings.TrimSpace(text))
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// highestDrawn bounds what is drawn of learning curves that end below it: an untrained policy is at 20 to 200, and where
// curves end, at 1, a hundredth matters.
const highestDrawn = 2.5

// belowHighest cuts off the beginning of curves up to where each stays below highestDrawn, unless one does not end there.
func belowHighest(curves []monitor.Curve) []monitor.Curve {
	cut := slices.Clone(curves)
	for i, c := range cut {
		from := len(c.Y)
		for from > 0 && c.Y[from-1] <= highestDrawn {
			from--
		}
		if from == len(c.Y) && len(c.Y) > 0 {
			return curves
		}
		c.X, c.Y = c.X[from:], c.Y[from:]
		if len(c.Low) > 0 {
			c.Low, c.High = c.Low[from:], c.High[from:]
		}
		cut[i] = c
	}
	return cut
}

func highest(curves []monitor.Curve) float64 {
	top := math.Inf(-1)
	for _, c := range curves {
		for _, y := range c.Y {
			top = max(top, y)
		}
	}
	return top
}

// AdaptationFigures draw what policies get in the episodes of a trial.
func (s *Section) AdaptationFigures() ([]figure, error) {
	var out []figure
	for _, test := range s.p.tests {
		if test.Episodes < 2 {
			continue
		}
		for _, mode := range []string{Greedy, Sampled} {
			c := monitor.Chart{Title: fmt.Sprintf("%s, %s policy", test.Name, mode), XLabel: "episode of the trial", YLabel: "ratio to LEFT (IQM)"}
			curves := map[string]*monitor.Curve{}
			var order, rules []string
			for _, cell := range s.Cells {
				if cell.Test != test.Name || cell.Mode != mode && cell.Mode != Rule || cell.Stage != s.p.last[cell.Method] {
					continue
				}
				curve := curves[cell.Method]
				if curve == nil {
					curve = &monitor.Curve{Name: cell.Method, Reference: cell.Mode == Rule}
					curves[cell.Method] = curve
					if cell.Mode == Rule {
						rules = append(rules, cell.Method)
					} else {
						order = append(order, cell.Method)
						curve.Color = s.page.color(cell.Method)
					}
				}
				iqm := cell.Ratio.IQM
				curve.X, curve.Y = append(curve.X, float64(cell.Episode)), append(curve.Y, iqm.Value)
				if cell.Mode != Rule {
					curve.Low, curve.High = append(curve.Low, iqm.Low), append(curve.High, iqm.High)
				}
			}
			if len(order) == 0 {
				continue
			}
			for _, name := range order {
				c.Curves = append(c.Curves, *curves[name])
			}
			var levels []monitor.Level
			for _, name := range rules {
				levels = append(levels, monitor.Level{Name: name, Y: Mean(curves[name].Y)})
			}
			text := references(&c, levels)
			for _, l := range c.Levels { // by episode
				c.Curves = append(c.Curves, *curves[l.Name])
			}
			c.Levels = nil
			f, err := newFigure(c, strings.TrimSpace(text))
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// ProfileFigures draw performance profiles.
func (s *Section) ProfileFigures() ([]figure, error) {
	var out []figure
	for _, p := range s.Profiles {
		c := monitor.Chart{Title: fmt.Sprintf("Profile, tests %s, %s policy", p.Group, p.Mode), XLabel: "ratio to LEFT, at most", YLabel: "share of episodes", LogX: true}
		var beyond, missing []string
		var named []reference
		for _, policy := range p.Policies {
			rule := !slices.Contains(s.p.methods, policy.Method)
			curve := monitor.Curve{Name: policy.Method, X: p.Thresholds, Reference: rule}
			for _, share := range policy.Share {
				curve.Y = append(curve.Y, share.Value)
				if !rule {
					curve.Low, curve.High = append(curve.Low, share.Low), append(curve.High, share.High)
				}
			}
			last := curve.Y[len(curve.Y)-1]
			if rule && last < 0.5 {
				missing = append(missing, policy.Method)
				continue
			}
			if !rule {
				curve.Color = s.page.color(policy.Method)
			}
			if curve.Y[0] > 0.0005 || last < 0.9995 {
				beyond = append(beyond, fmt.Sprintf("%s %.1f %% below and %.1f %% above", policy.Method, 100*curve.Y[0], 100*(1-last)))
			}
			if rule && policy.Method != left && policy.Method != "index" && policy.Method != "sita2_left" {
				missing = append(missing, policy.Method)
				continue
			}
			if rule {
				curve.Name = ""
				named = append(named, reference{policy.Method, fmt.Sprintf("%d 3", 2+3*len(named))})
			}
			c.Curves = append(c.Curves, curve)
		}
		text := ""
		if len(beyond) > 0 {
			text = fmt.Sprintf("Beyond the axis, which runs from %s to %s: %s.", number(p.Thresholds[0]), number(p.Thresholds[len(p.Thresholds)-1]), strings.Join(beyond, "; "))
		}
		if len(missing) > 0 {
			text += " Not drawn: " + strings.Join(missing, ", ") + "."
		}
		f, err := newFigure(c, strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		f.References = named
		out = append(out, f)
	}
	return out, nil
}

// comparison is a table of a method's probabilities of improvement.
type comparison struct {
	Title string
	Color int
	Rows  []comparisonRow
}

type comparisonRow struct {
	Comparison
	Name string
	Few  bool
	Bar  bar
}

// Comparisons have a table for each method and mode.
func (s *Section) Comparisons() []comparison {
	var out []comparison
	unit := axis{low: 0, high: 1}
	for _, c := range s.Improvement {
		title := policy{c.Method, c.Mode}.String()
		if len(out) == 0 || out[len(out)-1].Title != title {
			out = append(out, comparison{Title: title, Color: s.page.color(c.Method)})
		}
		t := &out[len(out)-1]
		t.Rows = append(t.Rows, comparisonRow{c, policy{c.Against, c.AgainstMode}.String(), c.runs < fewRuns, unit.bar(c.Lower)})
	}
	return out
}

// matrix is what a method got on each test after each stage.
type matrix struct {
	Title  string
	Color  int
	Stages []string
	Rows   []matrixRow
}

type matrixRow struct {
	Test  string
	Cells []matrixCell
}

type matrixCell struct {
	Value  Interval
	Shade  string  // better or worse than LEFT
	Weight float64 // of the shade, 0 to 0.6
	Own    bool    // right after the test's own task
}

// Matrices show tests by stages where methods were trained on a sequence.
func (s *Section) Matrices() []matrix {
	stages := s.p.Manifest.Stages
	if len(stages) < 2 {
		return nil
	}
	cells := map[played]Cell{}
	for _, c := range s.Cells {
		cells[played{c.Method, c.Mode, c.Test, c.Stage, c.Episode}] = c
	}
	var out []matrix
	for _, mode := range []string{Greedy, Sampled} {
		for _, method := range s.p.methods {
			if s.p.last[method] < 2 {
				continue
			}
			m := matrix{Title: policy{method, mode}.String(), Color: s.page.color(method), Stages: append([]string{"untrained"}, stages...)}
			scored := false
			for _, t := range s.p.tests {
				r := matrixRow{Test: t.Name}
				for k := range m.Stages {
					c, ok := cells[played{method, mode, t.Name, k, t.Episodes}]
					v := matrixCell{Value: Interval{math.NaN(), math.NaN(), math.NaN()}, Own: k > 0 && stages[k-1] == t.Name}
					if ok {
						scored = true
						v.Value = c.Ratio.IQM
						v.Shade = "better"
						if v.Value.Value > 1 {
							v.Shade = "worse"
						}
						v.Weight = 0.6 * min(1, math.Abs(math.Log2(v.Value.Value)))
					}
					r.Cells = append(r.Cells, v)
				}
				m.Rows = append(m.Rows, r)
			}
			if scored {
				out = append(out, m)
			}
		}
	}
	return out
}

// sequenceTable has a method's forgetting and forward transfer in a line.
type sequenceTable struct {
	Caption    string
	Tasks      []string
	Rows       []Sequence
	References []string
}

// ActorSequences are those of the returns, nil where there is none.
func (s *Section) ActorSequences() *sequenceTable { return s.sequenceTable("Actor", false) }

// ModelSequences are those of the world model's losses, nil where there is none.
func (s *Section) ModelSequences() *sequenceTable { return s.sequenceTable("World model", true) }

func (s *Section) sequenceTable(caption string, model bool) *sequenceTable {
	t := sequenceTable{Caption: caption, Tasks: s.p.Manifest.Stages}
	for _, q := range s.Sequences {
		if _, ok := loss(q.Measure); ok == model {
			t.Rows = append(t.Rows, q)
			if line := q.Method + ": " + q.Reference; !slices.Contains(t.References, line) {
				t.References = append(t.References, line)
			}
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	return &t
}

// Color is a method's colour in the page.
func (s *Section) Color(method string) int { return s.page.color(method) }

// ID is where the section is in the page.
func (s *Section) ID() string {
	return fmt.Sprintf("experiment-%d", slices.Index(s.page.Experiments, s)+1)
}

// Figures draw each task's learning curves.
func (s *ScoresSection) Figures() ([]figure, error) {
	var out []figure
	for _, t := range s.Tasks {
		c := monitor.Chart{Title: t.Task, XLabel: "environment steps", YLabel: "score"}
		for _, m := range t.Methods {
			color := s.page.color(m.Method)
			for _, run := range m.each {
				c.Curves = append(c.Curves, monitor.Curve{Name: m.Method, X: run.x, Y: run.y, Color: color, Thin: true})
			}
			sum := monitor.Curve{Name: m.Method, Color: color}
			for i, r := range m.Score {
				sum.X, sum.Y = append(sum.X, float64(m.At[i])), append(sum.Y, r.Value)
				sum.Low, sum.High = append(sum.Low, r.Low), append(sum.High, r.High)
			}
			c.Curves = append(c.Curves, sum)
		}
		if len(t.Methods) == 0 {
			continue
		}
		f, err := newFigure(c, "")
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// Legend lists the file's methods.
func (s *ScoresSection) Legend() []legend {
	var out []legend
	for _, t := range s.Tasks {
		for _, m := range t.Methods {
			if l := (legend{m.Method, s.page.color(m.Method)}); !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	return out
}

// Color is a method's colour in the page.
func (s *ScoresSection) Color(method string) int { return s.page.color(method) }
