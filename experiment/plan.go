package experiment

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Plan is an experiment with everything decided: what is trained, and what it is tested on.
type Plan struct {
	Name, Question, Scale string

	Stages []string
	Tests  []Test
	Runs   []Run // the first seed of all methods, then the second
}

// Test is a task that policies are compared on.
type Test struct {
	TestInfo
	// Document has the configuration keys that make the task and choose the episodes, to be laid over a run's own.
	Document []byte
}

// Run is a training run, of one method with one seed.
type Run struct {
	Method string
	Seed   uint64
	Stages []Stage
}

// Stage is one task of a training run. Its configuration has the budget of wall-clock time for this stage, and the
// budget of steps for the stages up to and including it.
type Stage struct {
	Name   string
	Config protocol.Config
}

// Options are what Resolve is told beside the preset.
type Options struct {
	Scale string
	Seeds []uint64 // of training
	// Methods are those of the preset to train, in the preset's order; none is all.
	Methods []string
	Traces  string // folder of the trace files, which stands for $TRACES in the preset
}

// agentKeys are those of env that belong to how an agent learns and not to the task: a method decides them, and a test
// leaves them as they were trained.
var agentKeys = []string{
	"episode_jobs", "reward", "tail_start", "reward_scale", "load_scales", "hide_rates", "observe_rates", "observe_measured", "observe_mask", "rl2_inputs",
}

// Resolve makes a plan of a preset. A training run's configuration is the method's preset at that scale, whose task is
// replaced by Park's, and over it the method's keys of methods.yaml, then those of the preset: config, train, the
// stage, the method, the scale's train. A test is Park's task and over it config, the test, the scale's test.
func (p *Preset) Resolve(o Options) (*Plan, error) {
	if !slices.Contains(Scales, o.Scale) {
		return nil, fmt.Errorf("%w: unknown scale %q; want one of %s", protocol.ErrConfig, o.Scale, strings.Join(Scales, ", "))
	}
	if len(o.Seeds) == 0 {
		return nil, fmt.Errorf("%w: an experiment needs at least one seed", protocol.ErrConfig)
	}
	all, err := families()
	if err != nil {
		return nil, err
	}
	for _, name := range o.Methods {
		if !slices.ContainsFunc(p.Methods, func(m Method) bool { return m.Name == name }) {
			return nil, fmt.Errorf("%w: experiment %s has no method %q; it has %s", protocol.ErrConfig, p.Name, name, strings.Join(p.methodNames(), ", "))
		}
	}
	plan := &Plan{Name: p.Name, Question: p.Question, Scale: o.Scale}
	for _, t := range p.Tests {
		test, err := p.test(t, o)
		if err != nil {
			return nil, err
		}
		plan.Tests = append(plan.Tests, test)
	}
	for _, s := range p.Stages {
		plan.Stages = append(plan.Stages, s.Name)
	}
	for _, seed := range o.Seeds {
		for _, m := range p.Methods {
			if len(o.Methods) > 0 && !slices.Contains(o.Methods, m.Name) {
				continue
			}
			f, ok := all[cmp.Or(m.Like, m.Name)]
			if !ok {
				return nil, fmt.Errorf("%w: experiment %s: method %s is like %q, which is none of %s",
					protocol.ErrConfig, p.Name, m.Name, cmp.Or(m.Like, m.Name), strings.Join(slices.Sorted(maps.Keys(all)), ", "))
			}
			runs, err := p.runs(f.at(o.Scale), m, seed, o)
			if err != nil {
				return nil, err
			}
			plan.Runs = append(plan.Runs, runs...)
		}
	}
	return plan, nil
}

// runs are a method's with a seed: one for all stages, or one for each.
func (p *Preset) runs(s size, m Method, seed uint64, o Options) ([]Run, error) {
	run := Run{Method: m.Name, Seed: seed}
	var runs []Run
	for i, task := range p.Stages {
		cfg, err := p.training(s, m, task, i, o)
		if err != nil {
			return nil, err
		}
		cfg.Seed = seed
		stage := Stage{task.Name, cfg}
		if m.Alone {
			runs = append(runs, Run{Method: m.Name + "-" + task.Name, Seed: seed, Stages: []Stage{stage}})
			continue
		}
		if i > 0 {
			if err := sameRun(p.Name, m.Name, run.Stages[0], stage); err != nil {
				return nil, err
			}
		}
		run.Stages = append(run.Stages, stage)
	}
	if m.Alone {
		return runs, nil
	}
	return []Run{run}, nil
}

// sameRun refuses a stage that is not the same run in another environment.
func sameRun(preset, method string, first, later Stage) error {
	for _, d := range protocol.Compatible(first.Config, later.Config) {
		if !strings.HasPrefix(d.Key, "env.") {
			return fmt.Errorf("%w: experiment %s: method %s: stage %s changes %s, which belongs to a run for life",
				protocol.ErrConfig, preset, method, later.Name, d.Key)
		}
	}
	return nil
}

func (p *Preset) training(s size, m Method, stage Task, number int, o Options) (protocol.Config, error) {
	where := fmt.Sprintf("experiment %s, method %s", p.Name, m.Name)
	cfg, err := protocol.PresetConfig(s.Preset)
	if err != nil {
		return cfg, fmt.Errorf("%s at scale %s: %w", where, o.Scale, err)
	}
	park, err := taskKeys(protocol.DefaultConfig())
	if err != nil {
		return cfg, err
	}
	if err := cfg.Merge(where, park); err != nil {
		return cfg, err
	}
	scale := p.Scales[o.Scale]
	for _, layer := range []yaml.Node{s.Config, p.Config, p.Train, stage.Config, m.Config, scale.Train} {
		if err := merge(&cfg, where, layer, o.Traces); err != nil {
			return cfg, err
		}
	}
	share := cmp.Or(scale.Budget, 1)
	steps := int64(share * float64(cfg.Budget.Steps))
	cfg.Budget.Duration = time.Duration(share * float64(cfg.Budget.Duration)).Round(time.Second)
	if cfg.Budget.Steps = steps; !m.Alone {
		cfg.Budget.Steps *= int64(number + 1)
	}
	cfg.Env.Name, cfg.Learner.Threads = stage.Name, 1
	if cfg.Budget.Steps == 0 && cfg.Budget.Duration == 0 {
		return cfg, fmt.Errorf("%w: %s has a budget neither of steps nor of time, and would never end", protocol.ErrConfig, where)
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("%s, task %s: %w", where, stage.Name, err)
	}
	return cfg, nil
}

func (p *Preset) test(t Task, o Options) (Test, error) {
	where, scale := fmt.Sprintf("experiment %s, test %s", p.Name, t.Name), p.Scales[o.Scale]
	cfg := protocol.DefaultConfig()
	for _, layer := range []yaml.Node{p.Config, t.Config, scale.Test} {
		if err := merge(&cfg, where, layer, o.Traces); err != nil {
			return Test{}, err
		}
	}
	cfg.Env.Name = t.Name
	cfg.Evaluate.Seeds = cmp.Or(scale.Seeds, t.Seeds, p.Seeds, cfg.Evaluate.Seeds)
	if err := cfg.Validate(); err != nil {
		return Test{}, fmt.Errorf("%s: %w", where, err)
	}
	document, err := testKeys(cfg)
	if err != nil {
		return Test{}, fmt.Errorf("%s: %w", where, err)
	}
	return Test{TestInfo{t.Name, t.Inside, cfg.Evaluate.Seeds, cfg.Env.EpisodesPerTrial}, document}, nil
}

// taskKeys writes the keys that make a task.
func taskKeys(cfg protocol.Config) ([]byte, error) {
	var task yaml.Node
	if err := task.Encode(cfg.Env); err != nil {
		return nil, err
	}
	for i := 0; i < len(task.Content); {
		if slices.Contains(agentKeys, task.Content[i].Value) {
			task.Content = slices.Delete(task.Content, i, i+2)
		} else {
			i += 2
		}
	}
	return yaml.Marshal(map[string]any{"env": &task})
}

// testKeys writes the keys that make a test: its task, and which episodes are played.
func testKeys(cfg protocol.Config) ([]byte, error) {
	task, err := taskKeys(cfg)
	if err != nil {
		return nil, err
	}
	e := cfg.Evaluate
	episodes, err := yaml.Marshal(map[string]any{
		"evaluate": map[string]any{"seeds": e.Seeds, "jobs": e.Jobs, "share": e.Share, "cut": e.Cut},
	})
	return append(task, episodes...), err
}

// tracesVariable stands in presets for the folder of trace files.
const tracesVariable = "$TRACES"

// merge lays a layer of a preset over a configuration.
func merge(cfg *protocol.Config, where string, layer yaml.Node, traces string) error {
	if layer.IsZero() {
		return nil
	}
	keys, err := plain(&layer, traces)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", protocol.ErrConfig, where, err)
	}
	document, err := yaml.Marshal(keys)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", protocol.ErrConfig, where, err)
	}
	return cfg.Merge(where, document)
}

// plain copies a layer with anchors and merged mappings (<<) written out, and the folder of trace files put in.
func plain(n *yaml.Node, traces string) (*yaml.Node, error) {
	if n.Kind == yaml.AliasNode {
		return plain(n.Alias, traces)
	}
	c := &yaml.Node{Kind: n.Kind, Style: n.Style, Tag: n.Tag, Value: n.Value}
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, tracesVariable) {
		if traces == "" {
			return nil, fmt.Errorf("%s is a trace file; name its folder by --traces", strings.TrimPrefix(n.Value, tracesVariable+"/"))
		}
		c.Value = strings.ReplaceAll(n.Value, tracesVariable, traces)
	}
	var merged *yaml.Node
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Tag == "!!merge" {
			m, err := plain(n.Content[i+1], traces)
			if err != nil {
				return nil, err
			}
			merged = m
			continue
		}
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Tag == "!!merge" {
			continue
		}
		copied, err := plain(child, traces)
		if err != nil {
			return nil, err
		}
		c.Content = append(c.Content, copied)
	}
	if merged == nil {
		return c, nil
	}
	if merged.Kind != yaml.MappingNode {
		return nil, errors.New("what << merges has keys and values")
	}
	for i := 0; i < len(merged.Content); i += 2 {
		if !hasKey(c, merged.Content[i].Value) {
			c.Content = append(c.Content, merged.Content[i], merged.Content[i+1])
		}
	}
	return c, nil
}

func hasKey(mapping *yaml.Node, key string) bool {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return true
		}
	}
	return false
}

// Minutes is the wall-clock that a run may train for, 0 for no limit.
func (r Run) Minutes() float64 {
	var total time.Duration
	for _, s := range r.Stages {
		total += s.Config.Budget.Duration
	}
	return total.Minutes()
}
