package experiment

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Preset is a trial protocol: what is trained, with which methods, and on what they are compared. Configurations in it
// are a few keys each, laid over one another; Resolve says in which order.
type Preset struct {
	Name     string `yaml:"-"`
	Document string `yaml:"-"` // as it was read

	Question string `yaml:"question"` // that the comparison answers, in one line
	// Config is of all training runs and all tests, Train of all training runs.
	Config yaml.Node `yaml:"config"`
	Train  yaml.Node `yaml:"train"`
	// Stages are tasks trained one after another in one run folder; none is one task, called after the preset.
	Stages []Task `yaml:"stages"`
	// Tests are what policies are compared on after every stage; none takes the stages.
	Tests []Task `yaml:"tests"`
	// Seeds are the evaluation seeds of the tests that name none.
	Seeds   string           `yaml:"seeds"`
	Methods []Method         `yaml:"methods"`
	Scales  map[string]Scale `yaml:"scales"`
}

// Task is a stage or a test.
type Task struct {
	Name   string    `yaml:"name"`
	Inside bool      `yaml:"inside"` // of a test: it lies inside what is trained on
	Seeds  string    `yaml:"seeds"`  // of a test
	Config yaml.Node `yaml:"config"`
}

// Method is a way to learn.
type Method struct {
	Name string `yaml:"name"`
	// Like names the method of methods.yaml that it differs from by Config; empty is Name.
	Like   string    `yaml:"like"`
	Config yaml.Node `yaml:"config"`
	// Alone trains every stage in a run of its own, from scratch: the reference of sequences. Each is a method named
	// after both, such as alone-park.
	Alone bool `yaml:"alone"`
}

// Scale makes an experiment smaller or larger.
type Scale struct {
	Budget float64   `yaml:"budget"` // share of the method's own budget that each stage has; 0 is 1
	Seeds  string    `yaml:"seeds"`  // evaluation seeds of all tests, instead
	Train  yaml.Node `yaml:"train"`
	Test   yaml.Node `yaml:"test"`
}

// Scales are the names of scales, smallest first: debug shows in seconds that everything works, small is for a
// machine of two cores and minutes a run, full is for large machines.
var Scales = []string{"debug", "small", "full"}

// family is a method of methods.yaml at each scale.
type family struct {
	About string `yaml:"about"`
	Debug size   `yaml:"debug"`
	Small size   `yaml:"small"`
	Full  size   `yaml:"full"`
}

// size is a preset of the configuration and keys over it.
type size struct {
	Preset string    `yaml:"preset"`
	Config yaml.Node `yaml:"config"`
}

func (f family) at(scale string) size {
	return map[string]size{"debug": f.Debug, "small": f.Small, "full": f.Full}[scale]
}

//go:embed presets/*.yaml methods.yaml
var files embed.FS

// presetOrder lists the presets as a reader meets their questions.
var presetOrder = []string{
	"standard", "adaptive-interval", "adaptive-size", "adaptive-servers", "hidden-rates", "drift", "continual", "traces", "ablation",
}

// maxPresetBytes bounds a preset read from a file; the longest of ours has 3 KB.
const maxPresetBytes = 1 << 16

// Presets lists the names of the presets.
func Presets() []string { return slices.Clone(presetOrder) }

// LoadPreset returns a preset by its name, or from a file whose name ends in .yaml or .yml.
func LoadPreset(name string) (*Preset, error) {
	if ext := path.Ext(name); ext == ".yaml" || ext == ".yml" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
		}
		defer f.Close()
		document, err := io.ReadAll(io.LimitReader(f, maxPresetBytes+1))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
		}
		return parsePreset(strings.TrimSuffix(path.Base(name), ext), document)
	}
	document, err := files.ReadFile("presets/" + name + ".yaml")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, fmt.Errorf("%w: unknown experiment %q; want one of %s, or a file that ends in .yaml",
			protocol.ErrConfig, name, strings.Join(presetOrder, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("experiment %s: %w", name, err)
	}
	return parsePreset(name, document)
}

func parsePreset(name string, document []byte) (*Preset, error) {
	p := &Preset{Name: name, Document: string(document)}
	if len(document) > maxPresetBytes {
		return nil, fmt.Errorf("%w: experiment %s has more than %d bytes", protocol.ErrConfig, name, maxPresetBytes)
	}
	if err := decodeYAML(document, p); err != nil {
		return nil, fmt.Errorf("%w: experiment %s: %w", protocol.ErrConfig, name, err)
	}
	if len(p.Stages) == 0 {
		p.Stages = []Task{{Name: name}}
	}
	if len(p.Tests) == 0 {
		p.Tests = slices.Clone(p.Stages)
		for i := range p.Tests {
			p.Tests[i].Inside = true
		}
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%w: experiment %s: %w", protocol.ErrConfig, name, err)
	}
	return p, nil
}

func decodeYAML(document []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(document))
	d.KnownFields(true)
	err := d.Decode(into)
	if err == io.EOF {
		return errors.New("the file is empty")
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return nil
}

// maxMethodName leaves room for the rest of a run's name on the bus.
const maxMethodName = 16

func (p *Preset) check() error {
	if !protocol.ValidName(p.Name) {
		return fmt.Errorf("its name has other characters than letters, digits, - and _, or more than %d", protocol.MaxName)
	}
	if p.Question == "" || len(p.Methods) == 0 {
		return errors.New("it needs a question and methods")
	}
	for _, list := range []struct {
		what  string
		tasks []Task
	}{{"stage", p.Stages}, {"test", p.Tests}} {
		seen := map[string]bool{}
		for _, t := range list.tasks {
			if !protocol.ValidName(t.Name) || seen[t.Name] {
				return fmt.Errorf("%s %q needs a name of its own, of letters, digits, - and _", list.what, t.Name)
			}
			seen[t.Name] = true
		}
	}
	seen := map[string]bool{}
	for _, m := range p.Methods {
		if !protocol.ValidName(m.Name) || len(m.Name) > maxMethodName || seen[m.Name] {
			return fmt.Errorf("method %q needs a name of its own, of at most %d letters, digits, - and _", m.Name, maxMethodName)
		}
		seen[m.Name] = true
		for _, s := range p.Stages {
			if name := m.Name + "-" + s.Name; m.Alone && len(name) > maxMethodName {
				return fmt.Errorf("method %q is named after its stage, and longer than %d", name, maxMethodName)
			}
		}
	}
	for name := range p.Scales {
		if !slices.Contains(Scales, name) {
			return fmt.Errorf("scale %q is none of %s", name, strings.Join(Scales, ", "))
		}
	}
	return nil
}

// families reads methods.yaml.
func families() (map[string]family, error) {
	document, err := files.ReadFile("methods.yaml")
	if err != nil {
		return nil, err
	}
	all := map[string]family{}
	if err := decodeYAML(document, &all); err != nil {
		return nil, fmt.Errorf("methods.yaml: %w", err)
	}
	return all, nil
}

func (p *Preset) methodNames() []string {
	var names []string
	for _, m := range p.Methods {
		names = append(names, m.Name)
	}
	return names
}
