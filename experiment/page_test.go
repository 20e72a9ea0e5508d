package experiment_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/monitor"
)

// made writes an experiment's folder whose answers are known: ratio says what a method of a seed gets in an episode
// of a test after a stage, on jobs that vary fivefold from one evaluation seed to the next.
type made struct {
	manifest experiment.Manifest
	rules    map[string]float64
	alone    map[string]string // tasks of methods that are trained on one
	ratio    func(method string, seed uint64, stage int, test string, episode int) float64
	model    func(method string, stage int, test string) map[string]float64
	curve    func(method string, seed uint64) string
	from     int // the first stage that is scored
}

var begun = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (m made) write(t testing.TB, dir string) string {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(dir, 0o755))
	m.manifest.Version, m.manifest.Commit, m.manifest.Started = "v1.2.3", "0123456789abcdef0123", begun
	m.manifest.Machine = experiment.Machine{CPU: "Known CPU", Cores: 2, Memory: 8 << 30, OS: "linux", Arch: "amd64", Kernel: "avx512"}
	for name := range m.rules {
		m.manifest.Rules = append(m.manifest.Rules, name)
	}
	slices.Sort(m.manifest.Rules)
	check(m.manifest.Write(dir))
	episode := func(test experiment.TestInfo, e int, ratio float64, luck *rand.Rand) []float64 {
		jobs := rand.New(rand.NewPCG(uint64(len(test.Name)), uint64(e)))
		var jct []float64
		for range seedsOf(t, test.Seeds) {
			v := 300 * math.Exp(0.5*jobs.NormFloat64())
			if luck != nil {
				v *= math.Exp(0.02 * luck.NormFloat64())
			}
			jct = append(jct, v*ratio)
		}
		return jct
	}
	var rules []experiment.Result
	for _, rule := range m.manifest.Rules {
		for _, test := range m.manifest.Tests {
			for e := 1; e <= test.Episodes; e++ {
				rules = append(rules, experiment.Result{Method: rule, Test: test.Name, Inside: test.Inside,
					Mode: experiment.Rule, Episode: e, Seeds: test.Seeds, MeanJCT: episode(test, e, m.rules[rule], nil)})
			}
		}
	}
	check(experiment.AppendResults(filepath.Join(dir, experiment.RulesFile), rules...))
	for _, method := range m.manifest.Methods {
		for _, seed := range m.manifest.Seeds {
			sub := experiment.JobDir(dir, method, seed)
			check(os.MkdirAll(sub, 0o755))
			finished := begun.Add(20 * time.Minute)
			job := experiment.Job{Method: method, Seed: seed, Commands: []string{fmt.Sprintf("dreamfleet train --preset small --seed %d --run x", seed)},
				Version: "v1.2.3", Commit: m.manifest.Commit, Machine: m.manifest.Machine, Minutes: 20, CPUSeconds: 2400, Steps: 1000, Updates: 99, Started: begun, Finished: &finished}
			check(job.Write(sub))
			var results []experiment.Result
			stages := m.manifest.Stages
			if task := m.alone[method]; task != "" {
				stages = []string{task}
			}
			for stage := m.from; stage <= len(stages); stage++ {
				after := ""
				if stage > 0 {
					after = stages[stage-1]
				}
				for _, test := range m.manifest.Tests {
					for e := 1; e <= test.Episodes; e++ {
						for _, mode := range []string{experiment.Greedy, experiment.Sampled} {
							ratio := m.ratio(method, seed, stage, test.Name, e)
							if mode == experiment.Sampled {
								ratio *= 1.05
							}
							r := experiment.Result{Method: method, Seed: seed, Stage: stage, After: after, Test: test.Name, Inside: test.Inside, Mode: mode, Episode: e,
								Steps: int64(1000 * stage), Minutes: float64(stage) * 20, Seeds: test.Seeds}
							r.MeanJCT = episode(test, e, ratio, rand.New(rand.NewPCG(seed, uint64(stage))))
							if m.model != nil && mode == experiment.Greedy && e == 1 {
								r.Model = m.model(method, stage, test.Name)
							}
							results = append(results, r)
						}
					}
				}
			}
			check(experiment.AppendResults(filepath.Join(sub, experiment.ScoresFile), results...))
			if m.curve != nil {
				check(os.WriteFile(filepath.Join(sub, experiment.CurveFile), []byte(m.curve(method, seed)), 0o644))
			}
		}
	}
	return dir
}

func seedsOf(t testing.TB, spec string) []int {
	var from, to int
	if _, err := fmt.Sscanf(spec, "%d-%d", &from, &to); err != nil {
		t.Fatal(err)
	}
	return make([]int, to-from+1)
}

func fallingCurve(method string, seed uint64) string {
	var b strings.Builder
	b.WriteString("environment_steps,minutes,greedy,sampled\n")
	scale := 1.0
	if method == "a2c" {
		scale = 100
	}
	for i := 1; i <= 25; i++ {
		share := float64(i) / 25
		ratio := 0.9 + 0.02*float64(seed) + 20*math.Exp(-12*share)
		fmt.Fprintf(&b, "%g,%g,%g,%g\n", 10000*float64(i)*scale, 0.8*float64(i), ratio, ratio*1.05)
	}
	return b.String()
}

func adaptive() made {
	return made{
		manifest: experiment.Manifest{Name: "adaptive-interval", Question: "Does the policy adapt to arrival intervals that it was not trained on?", Scale: "small",
			Methods: []string{"dreamer", "a2c"}, Stages: []string{"intervals"}, Seeds: []uint64{0, 1, 2},
			Tests: []experiment.TestInfo{{Name: "inside", Inside: true, Seeds: "3000-3059", Episodes: 4}, {Name: "wide", Inside: true, Seeds: "3000-3059", Episodes: 4}, {Name: "faster", Seeds: "3000-3059", Episodes: 4}}},
		rules: map[string]float64{"left": 1, "least_load": 1.06, "sita2_left": 0.89, "index": 0.84, "random": 24},
		ratio: func(method string, seed uint64, stage int, test string, episode int) float64 {
			if stage == 0 {
				return 60
			}
			r := map[string]float64{"dreamer": 0.88, "a2c": 0.97}[method]
			if test == "faster" {
				r += 0.1
			}
			return r + 0.2/float64(episode*episode) + 0.01*float64(seed)
		},
		curve: fallingCurve,
	}
}

// The first task is forgotten to a performance of 0.4, the second to 0.9: random play has ratio 9 and training on the
// task alone 1, so performance p is ratio 9 - 8 p.
var remembered = map[string][]float64{"one": {0, 1, 0.7, 0.4}, "second": {0, 0.25, 1, 0.9}, "the-third": {0, 0, 0, 0.95}}

func continual() made {
	at := func(p float64) float64 { return 9 - 8*p }
	return made{
		manifest: experiment.Manifest{Name: "continual", Question: "What is left of a task when others are trained after it?", Scale: "small",
			Methods: []string{"dreamer", "dreamer-one", "dreamer-second", "dreamer-the-third"}, Stages: []string{"one", "second", "the-third"}, Seeds: []uint64{0, 1},
			Tests: []experiment.TestInfo{{Name: "one", Inside: true, Seeds: "3000-3039", Episodes: 1}, {Name: "second", Inside: true, Seeds: "3000-3039", Episodes: 1}, {Name: "the-third", Inside: true, Seeds: "3000-3039", Episodes: 1}}},
		rules: map[string]float64{"left": 1, "random": 9, "index": 0.84},
		alone: map[string]string{"dreamer-one": "one", "dreamer-second": "second", "dreamer-the-third": "the-third"},
		ratio: func(method string, seed uint64, stage int, test string, episode int) float64 {
			if task, ok := strings.CutPrefix(method, "dreamer-"); ok {
				if task == test && stage == 1 {
					return at(1)
				}
				return at(0)
			}
			return at(remembered[test][stage])
		},
		model: func(method string, stage int, test string) map[string]float64 {
			if task, ok := strings.CutPrefix(method, "dreamer-"); ok {
				if task == test && stage == 1 {
					return map[string]float64{"observation": 2}
				}
				return map[string]float64{"observation": 4}
			}
			// From 4 untrained to 2 after the task's own training and to 3 after any other.
			own := slices.Index([]string{"one", "second", "the-third"}, test) + 1
			switch {
			case stage == own:
				return map[string]float64{"observation": 2}
			case stage > own:
				return map[string]float64{"observation": 3}
			}
			return map[string]float64{"observation": 4}
		},
	}
}

func pageOf(t testing.TB, out string, files []experiment.ScoresFileContent, dirs ...string) *experiment.Page {
	t.Helper()
	var folders []*experiment.Folder
	for _, dir := range dirs {
		f, err := experiment.ReadFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		folders = append(folders, f)
	}
	page, err := experiment.NewPage(folders, files, out)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func render(t testing.TB, write func(*bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func html(t testing.TB, p *experiment.Page) string {
	return render(t, func(b *bytes.Buffer) error { return p.WriteHTML(b) })
}

func TestPageOfKnownAnswers(t *testing.T) {
	dir := adaptive().write(t, filepath.Join(t.TempDir(), "adaptive"))
	page := pageOf(t, filepath.Join(filepath.Dir(dir), "report.html"), nil, dir)
	s := page.Experiments[0]
	seen := 0
	for _, c := range s.Cells {
		if c.Method == "dreamer" && c.Mode == "greedy" && c.Test == "faster" && c.Stage == 1 {
			seen++
			want := 0.98 + 0.2/float64(c.Episode*c.Episode) + 0.01
			if math.Abs(c.Ratio.IQM.Value-want) > 0.006 || c.Ratio.IQM.Low > want || c.Ratio.IQM.High < want || c.Final != (c.Episode == 4) {
				t.Errorf("episode %d: %+v, final %v, want %g", c.Episode, c.Ratio.IQM, c.Final, want)
			}
		}
		if c.Mode == "rule" && c.Method == "index" && (math.Abs(c.Ratio.Mean.Value-0.84) > 1e-9 || c.Ratio.Mean.High-c.Ratio.Mean.Low > 1e-9) {
			t.Errorf("a rule at 0.84 of LEFT on all jobs has %+v", c.Ratio.Mean)
		}
	}
	if seen != 4 {
		t.Errorf("%d episodes of faster, want 4", seen)
	}
	for _, c := range s.Improvement {
		want := -1.0
		switch {
		case c.Method == "dreamer" && c.Against == "a2c", c.Method == "dreamer" && c.Against == "random":
			want = 1
		case c.Method == "a2c" && c.Against == "dreamer":
			want = 0
		}
		if want >= 0 && math.Abs(c.Lower.Value-want) > 0.03 {
			t.Errorf("%s is below %s with probability %g, want %g", c.Method, c.Against, c.Lower.Value, want)
		}
	}
	// By the curve greedy is below 1 from 20 exp(-12 i/25) < 0.1 - seed/50 on: i = 12 of 25 for seed 0, 12 for 1, 13 for 2.
	for _, r := range s.Reached {
		if r.Method == "dreamer" && r.Mode == "greedy" && (r.Passed != 3 || r.Stayed != 3 || float64(r.First.Steps) != 120000 || math.Abs(float64(r.First.Minutes)-9.6) > 1e-9) {
			t.Errorf("%+v, want all three at 120000 steps, 9.6 minutes", r)
		}
	}
	if len(s.Notes) != 0 {
		t.Errorf("notes %q", s.Notes)
	}
}

func TestPageOfASequence(t *testing.T) {
	dir := continual().write(t, filepath.Join(t.TempDir(), "continual"))
	s := pageOf(t, filepath.Join(dir, "report.html"), nil, dir).Experiments[0]
	found := map[string]experiment.Sequence{}
	for _, q := range s.Sequences {
		if q.Method != "dreamer" {
			t.Errorf("%s was not trained on the sequence", q.Method)
		}
		found[q.Measure+" "+q.Mode] = q
	}
	near := func(got, want float64) bool { return math.Abs(got-want) < 0.01 }
	q, ok := found["return greedy"]
	if !ok {
		t.Fatalf("sequences %v", found)
	}
	for i, want := range []float64{0.6, 0.1, 0} {
		if !near(float64(q.Forgetting[i]), want) {
			t.Errorf("forgetting of task %d is %g, want %g", i, q.Forgetting[i], want)
		}
	}
	if !near(q.Forgotten.Value, 0.7/3) || q.Runs != 2 || q.Reference != "dreamer-one, dreamer-second, dreamer-the-third" {
		t.Errorf("%+v", q)
	}
	// Alone, from 0 to 1: an area of 1/2. The second task starts at 0.25: 0.625, a quarter of what is above. The third
	// ends at 0.95: 0.475, less by a twentieth.
	for i, want := range []float64{0, 0.25, -0.05} {
		if !near(float64(q.Transfer[i]), want) {
			t.Errorf("transfer to task %d is %g, want %g", i, q.Transfer[i], want)
		}
	}
	// The model's loss of the first two tasks ends half way between random and reference.
	m := found["model: observation "]
	if !near(float64(m.Forgetting[0]), 0.5) || !near(float64(m.Forgetting[1]), 0.5) || !near(m.Forgotten.Value, 1./3) || !near(m.Transferred.Value, 0) {
		t.Errorf("world model: %+v", m)
	}
	if raw := found["model, raw: observation "]; !near(float64(raw.Forgetting[0]), 1) || !near(float64(raw.Forgetting[2]), 0) {
		t.Errorf("the loss has risen from 2 to 3, and by %v", raw.Forgetting)
	}
	if len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "Fewer than 3 training runs") {
		t.Errorf("notes %q", s.Notes)
	}
}

// Where nothing was scored before training, random play and the models of other tasks stand for it.
func TestPageOfASequenceScoredOnlyAfterTraining(t *testing.T) {
	m := continual()
	m.from = 1
	m.manifest.Seeds = []uint64{0}
	dir := m.write(t, filepath.Join(t.TempDir(), "continual"))
	for _, q := range pageOf(t, filepath.Join(dir, "report.html"), nil, dir).Experiments[0].Sequences {
		want := map[string]float64{"return greedy": 0.7 / 3, "model: observation ": 1. / 3}[q.Measure+" "+q.Mode]
		if want != 0 && math.Abs(q.Forgotten.Value-want) > 0.01 {
			t.Errorf("%s: forgetting %g, want %g", q.Measure, q.Forgotten.Value, want)
		}
		if q.Measure == "return" && q.Mode == "greedy" && (math.Abs(float64(q.Transfer[0])) > 0.01 || math.Abs(float64(q.Transfer[1])-0.25) > 0.01) {
			t.Errorf("transfer %v, want 0, 0.25", q.Transfer)
		}
	}
}

func TestPageIsSelfContainedAndDeterministic(t *testing.T) {
	root := t.TempDir()
	a, b := adaptive().write(t, filepath.Join(root, "a")), continual().write(t, filepath.Join(root, "b"))
	scores := []experiment.ScoresFileContent{{Path: filepath.Join(root, "x.json"), Curves: []monitor.Scores{
		{Task: "atari_pong", Method: "dreamerv3", Seed: 0, Xs: []float64{0, 100, 200}, Ys: []float64{-20, 0, 20}},
		{Task: "atari_pong", Method: "dreamerv3", Seed: 1, Xs: []float64{0, 100, 300}, Ys: []float64{-20, math.NaN(), 10}},
	}}}
	out := filepath.Join(root, "reports", "all.html")
	text := html(t, pageOf(t, out, scores, a, b))
	if again := html(t, pageOf(t, out, scores, a, b)); again != text {
		t.Error("the same input gives another page")
	}
	for _, m := range regexp.MustCompile(`(?:src|href|url)\s*[=(]\s*"?([^")\s>]*)`).FindAllStringSubmatch(text, -1) {
		link := m[1]
		if strings.HasPrefix(link, "#") || link == "data:," || strings.HasSuffix(link, "x.json") {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(out), filepath.FromSlash(link))); !strings.HasPrefix(link, "../") || err != nil && !os.IsNotExist(err) {
			t.Errorf("the page leads to %q: %v", link, err)
		}
		if _, err := os.Stat(filepath.Join(root, strings.TrimPrefix(link, "../"))); err != nil {
			t.Errorf("the page links to a file that does not exist: %v", err)
		}
	}
	for _, never := range []string{"<script", "@import", "ZgotmplZ", "NaN", "Inf", "#-8", "<no value>"} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	for _, want := range []string{"adaptive-interval", "v1.2.3", "0123456789ab", "Known CPU", "dreamfleet train --preset small --seed 1 --run x", "3000-3059", "Fewer than 3 training runs",
		"Probability of improvement", "Performance profiles", "Forgetting and forward transfer", "Evaluation matrices", "Adaptation", "Learning curves", "Beyond the axis: random (24.0)", "prefers-color-scheme: dark", "atari_pong"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
}

func TestPageBesideIt(t *testing.T) {
	dir := continual().write(t, filepath.Join(t.TempDir(), "b"))
	page := pageOf(t, filepath.Join(dir, "r.html"), nil, dir)
	var tree map[string]any
	if err := json.Unmarshal([]byte(render(t, func(b *bytes.Buffer) error { return page.WriteJSON(b) })), &tree); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(render(t, func(b *bytes.Buffer) error { return page.WriteCSV(b) }))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	// 3 rules on 3 tests; dreamer after 4 stages and three others after 2, on 3 tests in 2 modes.
	if want := 1 + 9 + 3*2*(4+3*2); len(rows) != want {
		t.Errorf("%d lines, want %d", len(rows), want)
	}
}

func TestFolderThatIsNone(t *testing.T) {
	dir := t.TempDir()
	if _, err := experiment.ReadFolder(dir); err == nil || !strings.Contains(err.Error(), "experiment.json") {
		t.Errorf("an empty folder: %v", err)
	}
	dir = continual().write(t, filepath.Join(dir, "c"))
	sub := experiment.JobDir(dir, "dreamer", 0)
	if err := os.Rename(filepath.Join(experiment.JobDir(dir, "dreamer", 1), experiment.ScoresFile), filepath.Join(sub, experiment.ScoresFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := experiment.ReadFolder(dir); err == nil || !strings.Contains(err.Error(), "seed 1") {
		t.Errorf("scores of another run: %v", err)
	}
}
