package experiment

import (
	"fmt"
	"slices"
	"strings"
)

// left is the rule that every score is divided by.
const left = "left"

// pairing divides the scores of an experiment's folder by LEFT's on the same jobs and finds them by what they are of.
type pairing struct {
	*Folder
	tests   []TestInfo
	methods []string
	rules   []string
	ratios  map[played]map[uint64][]float64 // by training seed
	jct     map[played]map[uint64]float64   // the mean over the evaluation seeds
	last    map[string]int                  // stage of a method, the last that it has
	notes   []string
}

// played is what a policy did in an episode of a test after a stage.
type played struct {
	method, mode, test string
	stage, episode     int
}

func pair(f *Folder) *pairing {
	p := &pairing{Folder: f, tests: slices.Clone(f.Manifest.Tests), ratios: map[played]map[uint64][]float64{},
		jct: map[played]map[uint64]float64{}, last: map[string]int{}}
	all := slices.Clone(f.Rules)
	for _, run := range f.Runs {
		all = append(all, run.Results...)
	}
	type episode struct {
		test, seeds string
		number      int
	}
	reference := map[episode][]float64{}
	for _, r := range all {
		if r.Method == left && r.Mode == Rule {
			reference[episode{r.Test, r.Seeds, r.Episode}] = r.MeanJCT
		}
		if !slices.ContainsFunc(p.tests, func(t TestInfo) bool { return t.Name == r.Test }) {
			p.tests = append(p.tests, TestInfo{r.Test, r.Inside, r.Seeds, 1})
			p.note("%s is played, but %s does not list it.", r.Test, ManifestFile)
		}
	}
	p.methods, p.rules = slices.Clone(f.Manifest.Methods), slices.Clone(f.Manifest.Rules)
	steps := map[played]map[uint64]int64{}
	for _, r := range all {
		i := slices.IndexFunc(p.tests, func(t TestInfo) bool { return t.Name == r.Test })
		p.tests[i].Episodes = max(p.tests[i].Episodes, r.Episode)
		if r.Seeds != p.tests[i].Seeds {
			p.note("Scores of %s on %s with the seeds %s are left out: the test's are %s.", r.Method, r.Test, r.Seeds, p.tests[i].Seeds)
			continue
		}
		theirs, ok := reference[episode{r.Test, r.Seeds, r.Episode}]
		if !ok {
			p.note("Scores on %s, episode %d, are left out: %s was not played on it.", r.Test, r.Episode, left)
			continue
		}
		key := played{r.Method, r.Mode, r.Test, r.Stage, r.Episode}
		if r.Mode == Rule {
			key.stage = 0
			if !slices.Contains(p.rules, r.Method) {
				p.rules = append(p.rules, r.Method)
			}
		} else if !slices.Contains(p.methods, r.Method) {
			p.methods = append(p.methods, r.Method)
		}
		p.last[r.Method] = max(p.last[r.Method], key.stage)
		if p.ratios[key] == nil {
			p.ratios[key], p.jct[key], steps[key] = map[uint64][]float64{}, map[uint64]float64{}, map[uint64]int64{}
		}
		if r.Steps < steps[key][r.Seed] {
			continue // scored more than once in a stage: the latest counts
		}
		p.ratios[key][r.Seed], steps[key][r.Seed] = over(r.MeanJCT, theirs), r.Steps
		p.jct[key][r.Seed] = Mean(r.MeanJCT)
	}
	return p
}

// over divides value by value.
func over(values, by []float64) []float64 {
	ratios := make([]float64, len(values))
	for i, v := range values {
		ratios[i] = v / by[i]
	}
	return ratios
}

// note adds a sentence that is not yet there.
func (p *pairing) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.notes, text) {
		p.notes = append(p.notes, text)
	}
}

// final is a method's or rule's last episode on a test after all of its training.
func (p *pairing) final(method, mode string, test TestInfo) played {
	return played{method, mode, test.Name, p.last[method], test.Episodes}
}

// sample returns the ratios of what was played, of the training seeds given, and false where one has none.
func (p *pairing) sample(key played, seeds []uint64) (Sample, bool) {
	sample := make(Sample, len(seeds))
	for i, seed := range seeds {
		if sample[i] = p.ratios[key][seed]; sample[i] == nil {
			return nil, false
		}
	}
	return sample, len(seeds) > 0
}

// seeds are the training seeds, ascending, that have all of what was played.
func (p *pairing) seeds(keys ...played) []uint64 {
	var seeds []uint64
	if len(keys) == 0 {
		return nil
	}
	for seed := range p.ratios[keys[0]] {
		if !slices.ContainsFunc(keys, func(k played) bool { return p.ratios[k][seed] == nil }) {
			seeds = append(seeds, seed)
		}
	}
	slices.Sort(seeds)
	return seeds
}

// finals returns a method's last episodes on each of the tests, of the training seeds that have them all, and none where
// a test was not played.
func (p *pairing) finals(method, mode string, tests []TestInfo) (samples []Sample, seeds []uint64) {
	var keys []played
	for _, t := range tests {
		keys = append(keys, p.final(method, mode, t))
	}
	if seeds = p.seeds(keys...); len(seeds) == 0 {
		return nil, nil
	}
	for _, k := range keys {
		sample, _ := p.sample(k, seeds)
		samples = append(samples, sample)
	}
	return samples, seeds
}

// policies are who was scored: each method in each mode, then the rules.
func (p *pairing) policies() []policy {
	var out []policy
	for _, mode := range []string{Greedy, Sampled} {
		for _, m := range p.methods {
			out = append(out, policy{m, mode})
		}
	}
	for _, r := range p.rules {
		out = append(out, policy{r, Rule})
	}
	return out
}

type policy struct{ name, mode string }

func (p policy) String() string {
	if p.mode == Sampled {
		return p.name + ", " + p.mode
	}
	return p.name
}

// grouped are the tests inside and those outside the training distribution.
func (p *pairing) grouped() (inside, outside []TestInfo) {
	for _, t := range p.tests {
		if t.Inside {
			inside = append(inside, t)
		} else {
			outside = append(outside, t)
		}
	}
	return inside, outside
}

// join writes seeds or names as a list.
func join[T any](values []T) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(values), " ", ", "), "[]")
}
