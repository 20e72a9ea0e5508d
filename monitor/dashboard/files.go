package dashboard

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/view"
)

// lookAtFiles brings the list of episodes and the forgetting matrix up to date.
func (s *Server) lookAtFiles() {
	if s.cfg.Episodes != "" {
		s.hub.set("episodes", "episodes", s.episodes())
	}
	if s.cfg.Experiment == "" {
		return
	}
	matrices, err := Forgetting(s.cfg.Experiment)
	if err != nil {
		s.hub.set("files", "trouble", err.Error())
		return
	}
	s.hub.set("matrix", "matrix", matrices)
}

// maxEpisodes are offered, the newest.
const maxEpisodes = 100

// episodes lists the recorded ones by name, the newest first.
func (s *Server) episodes() []string {
	entries, err := os.ReadDir(s.cfg.Episodes)
	if err != nil { // there may be some later
		return []string{}
	}
	type found struct {
		name string
		time int64
	}
	var list []found
	for _, e := range entries {
		info, err := e.Info()
		if name, ok := strings.CutSuffix(e.Name(), view.Extension); ok && err == nil && info.Mode().IsRegular() {
			list = append(list, found{name, info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(list, func(x, y found) int { return cmp.Or(cmp.Compare(y.time, x.time), cmp.Compare(x.name, y.name)) })
	names := make([]string, 0, len(list))
	for _, f := range list[:min(len(list), maxEpisodes)] {
		names = append(names, f.name)
	}
	return names
}

// episode sends a recorded one.
func (s *Server) episode(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if s.cfg.Episodes == "" || !slices.Contains(s.episodes(), name) {
		http.Error(w, "there is no such episode", http.StatusNotFound)
		return
	}
	clip, err := view.ReadFile(filepath.Join(s.cfg.Episodes, name+view.Extension))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, clip)
}

// Matrix is how a method scores on every test after every stage of training:
// interquartile means of the ratio to LEFT over all seeds, below 1 is better.
type Matrix struct {
	Method string      `json:"method"`
	Mode   string      `json:"mode"`
	Stages []string    `json:"stages"` // what was trained last, in order
	Tests  []string    `json:"tests"`
	Ratios [][]float64 `json:"ratios"` // by stage and test; -1 where there is none
}

// maxRuns bounds the folders of an experiment that are read.
const maxRuns = 1000

// Forgetting reads the matrices of an experiment's methods from its folder: the
// last episode of each test under the greedy policy.
func Forgetting(dir string) ([]Matrix, error) {
	rules, err := experiment.ReadResultsFile(filepath.Join(dir, "rules.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("experiment: %w", err)
	}
	left := map[string]experiment.Result{} // the last episode, by test
	for _, r := range rules {
		if r.Method == "left" && r.Episode >= left[r.Test].Episode {
			left[r.Test] = r
		}
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*", "seed-*", "scores.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("experiment: %w", err)
	}
	byMethod := map[string][]experiment.Result{}
	for _, file := range files[:min(len(files), maxRuns)] {
		results, err := experiment.ReadResultsFile(file)
		if err != nil {
			return nil, fmt.Errorf("experiment: %w", err)
		}
		for _, r := range results {
			if l, ok := left[r.Test]; ok && r.Mode == experiment.Greedy && r.Episode == l.Episode && len(r.MeanJCT) == len(l.MeanJCT) && r.Seeds == l.Seeds {
				byMethod[r.Method] = append(byMethod[r.Method], r)
			}
		}
	}
	matrices := []Matrix{}
	for method, results := range byMethod {
		matrices = append(matrices, matrixOf(method, results, left))
	}
	slices.SortFunc(matrices, func(x, y Matrix) int { return cmp.Compare(x.Method, y.Method) })
	return matrices, nil
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func matrixOf(method string, results []experiment.Result, left map[string]experiment.Result) Matrix {
	m := Matrix{Method: method, Mode: experiment.Greedy}
	stages := map[int]string{}
	ratios := map[int]map[string][]float64{}
	for _, r := range results {
		name := fmt.Sprintf("%d", r.Stage)
		if r.After != "" {
			name += " " + r.After
		}
		stages[r.Stage] = name
		if !slices.Contains(m.Tests, r.Test) {
			m.Tests = append(m.Tests, r.Test)
		}
		if ratios[r.Stage] == nil {
			ratios[r.Stage] = map[string][]float64{}
		}
		for i, jct := range r.MeanJCT {
			ratios[r.Stage][r.Test] = append(ratios[r.Stage][r.Test], jct/left[r.Test].MeanJCT[i])
		}
	}
	var order []int
	for stage := range stages {
		order = append(order, stage)
	}
	slices.Sort(order)
	for _, stage := range order {
		m.Stages = append(m.Stages, stages[stage])
		row := make([]float64, len(m.Tests))
		for k, test := range m.Tests {
			row[k] = -1
			if list := ratios[stage][test]; len(list) > 0 {
				if iqm := experiment.IQM(list); iqm-iqm == 0 {
					row[k] = iqm
				}
			}
		}
		m.Ratios = append(m.Ratios, row)
	}
	return m
}
