package model

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Names of the modules, in the order in which they lie in memory. The first
// three and the actor are what acting needs.
const (
	Encoder  = "encoder"
	RSSM     = "rssm"
	Prior    = "prior"
	Actor    = "actor"
	Decoder  = "decoder"
	Reward   = "reward"
	Continue = "continue"
	Critic   = "critic"
)

// Tensor is a named view into the memory of a Params.
type Tensor struct {
	Name  string
	Shape []int
	Data  []float32
}

// Module is the parameters of one network: a contiguous slice and the named
// tensors that tile it.
type Module struct {
	Name    string
	Data    []float32
	Tensors []Tensor
}

// Params holds the parameters of all networks in one allocation, so that an
// optimiser, a checkpoint or a broadcast is a single pass over memory.
type Params struct {
	Config  Config // of a world model and its policy; zero for an actor-critic
	Data    []float32
	Modules []Module

	layouts []*layout
	acting  []string // modules that acting needs
}

// NewParams lays out the parameters of a configuration, all zero.
func NewParams(c Config) (*Params, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	p := newParams(newNetworks(c).layouts, Encoder, RSSM, Actor)
	p.Config = c
	return p, nil
}

func newParams(layouts []*layout, acting ...string) *Params {
	total := 0
	for _, l := range layouts {
		total += l.size
	}
	p := &Params{Data: make([]float32, total), layouts: layouts, acting: acting}
	at := 0
	for _, l := range layouts {
		m := Module{Name: l.name, Data: p.Data[at : at+l.size : at+l.size]}
		for _, s := range l.specs {
			m.Tensors = append(m.Tensors, Tensor{
				Name:  l.name + "/" + s.name,
				Shape: s.shape,
				Data:  m.Data[s.off : s.off+s.n : s.off+s.n],
			})
		}
		p.Modules = append(p.Modules, m)
		at += l.size
	}
	return p
}

// Module returns a module by name. It panics on a name that is not one of the
// constants above: there is no way for it to come from outside.
func (p *Params) Module(name string) *Module {
	for i := range p.Modules {
		if p.Modules[i].Name == name {
			return &p.Modules[i]
		}
	}
	panic("model: no module " + name)
}

// Tensors returns every tensor, module by module.
func (p *Params) Tensors() []Tensor {
	var all []Tensor
	for _, m := range p.Modules {
		all = append(all, m.Tensors...)
	}
	return all
}

// ActingTensors returns the tensors that acting needs: encoder, RSSM without
// the prior, and actor; or those of an actor-critic without the critic.
func (p *Params) ActingTensors() []Tensor {
	var all []Tensor
	for _, name := range p.acting {
		all = append(all, p.Module(name).Tensors...)
	}
	return all
}

// Init draws the initial parameters: kernels from a normal distribution
// truncated at two standard deviations with variance 1/fan-in, biases zero,
// norm scales one. The output layers of reward and critic start at zero and
// that of the actor at a hundredth (DreamerV3, appendix on hyperparameters).
func (p *Params) Init(r *rand.Rand) {
	for i, l := range p.layouts {
		for j, s := range l.specs {
			d := p.Modules[i].Tensors[j].Data
			switch s.kind {
			case kindKernel:
				// A normal truncated at 2 sigma has a deviation of 0.8796 sigma.
				std := s.gain / 0.87962566 / math.Sqrt(float64(s.fanIn))
				for k := range d {
					d[k] = float32(truncated(r) * std)
				}
			case kindBias:
				clear(d)
			case kindScale:
				for k := range d {
					d[k] = 1
				}
			}
		}
	}
}

func truncated(r *rand.Rand) float64 {
	for {
		if x := r.NormFloat64(); math.Abs(x) <= 2 {
			return x
		}
	}
}

// Assign copies the tensors of a file into those of the same name in want.
// Every one of want must be there with its shape, or nothing is changed;
// others are ignored.
func Assign(want []Tensor, file *File) error {
	have := file.ByName()
	for _, t := range want {
		h, ok := have[t.Name]
		if !ok {
			return fmt.Errorf("%w: tensor %s is missing", ErrParams, t.Name)
		}
		if !sameShape(h.Shape, t.Shape) {
			return fmt.Errorf("%w: tensor %s has shape %v, want %v", ErrParams, t.Name, h.Shape, t.Shape)
		}
	}
	for _, t := range want {
		copy(t.Data, have[t.Name].Data)
	}
	return nil
}

func sameShape(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A layout lists the tensors of one module by offset.
type layout struct {
	name  string
	size  int
	specs []spec
}

type spec struct {
	span
	name  string
	shape []int
	kind  int
	fanIn int
	gain  float64
}

const (
	kindKernel = iota
	kindBias
	kindScale
)

// span is a range of a module's memory.
type span struct{ off, n int }

func (s span) of(p []float32) []float32 { return p[s.off : s.off+s.n : s.off+s.n] }

func (l *layout) add(name string, kind, fanIn int, gain float64, shape ...int) span {
	n := 1
	for _, d := range shape {
		n *= d
	}
	s := span{l.size, n}
	l.specs = append(l.specs, spec{span: s, name: name, shape: shape, kind: kind, fanIn: fanIn, gain: gain})
	l.size += n
	return s
}
