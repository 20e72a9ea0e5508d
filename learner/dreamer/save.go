package dreamer

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/dreamfleet/dreamfleet/model"
)

// Prefixes and names of the tensors of a saved agent: the parameters under
// their own names, both moments of the optimiser and the slow critic under
// these.
const (
	momentum      = "momentum/"
	meanSquare    = "mean_square/"
	slowCritic    = "slow/"
	returnRange   = "return_range"
	advantageSize = "advantage_size"
)

// tensors lists everything that training changes, except for the counters and
// the random stream, which go into the metadata.
func (a *Agent) tensors() []model.Tensor {
	all := a.params.Tensors()
	like := func(prefix string, of []model.Tensor, data []float32) {
		at := 0
		for _, t := range of {
			n := len(t.Data)
			all = append(all, model.Tensor{Name: prefix + t.Name, Shape: t.Shape, Data: data[at : at+n]})
			at += n
		}
	}
	params := a.params.Tensors()
	like(momentum, params, a.opt.M)
	like(meanSquare, params, a.opt.V)
	like(slowCritic, a.params.Module(model.Critic).Tensors, a.slow)
	return append(all,
		model.Tensor{Name: returnRange, Shape: []int{2}, Data: []float32{a.norm.low, a.norm.high}},
		model.Tensor{Name: advantageSize, Shape: []int{2}, Data: []float32{a.size.size, a.size.seen}})
}

// Save writes parameters, optimiser, slow critic, return normaliser, random
// stream and step count as a safetensors file.
func (a *Agent) Save(w io.Writer) error {
	rng, err := a.pcg.MarshalBinary()
	if err != nil {
		return fmt.Errorf("dreamer: random stream: %w", err)
	}
	f := model.File{Tensors: a.tensors(), Metadata: map[string]string{
		"step": strconv.FormatInt(a.opt.Step, 10), "rng": hex.EncodeToString(rng),
	}}
	if _, err := f.WriteTo(w); err != nil {
		return fmt.Errorf("dreamer: saving: %w", err)
	}
	return nil
}

// Load restores what Save wrote. On an error the agent must not be used.
func (a *Agent) Load(r io.Reader) error {
	f, err := model.ReadFile(r)
	if err != nil {
		return fmt.Errorf("dreamer: loading: %w", err)
	}
	step, err := strconv.ParseInt(f.Metadata["step"], 10, 64)
	if err != nil || step < 0 {
		return fmt.Errorf("dreamer: loading: step is %q", f.Metadata["step"])
	}
	rng, err := hex.DecodeString(f.Metadata["rng"])
	if err == nil {
		err = a.pcg.UnmarshalBinary(rng)
	}
	if err != nil {
		return fmt.Errorf("dreamer: loading the random stream: %w", err)
	}
	want := a.tensors()
	if err := model.Assign(want, f); err != nil {
		return fmt.Errorf("dreamer: loading: %w", err)
	}
	norm, size := want[len(want)-2].Data, want[len(want)-1].Data
	a.norm.low, a.norm.high, a.size.size, a.size.seen = norm[0], norm[1], size[0], size[1]
	a.opt.Step = step
	return nil
}
