package dreamer

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/dreamfleet/dreamfleet/model"
)

// Names of the tensors of a saved agent beside the optimiser's: the slow
// critic's begin with the first.
const (
	slowCritic    = "slow/"
	returnRange   = "return_range"
	advantageSize = "advantage_size"
)

// tensors lists everything that training changes, except for the counters and
// the random stream, which go into the metadata.
func (a *Agent) tensors() []model.Tensor {
	all := a.opt.Tensors()
	at := 0
	for _, t := range a.params.Module(model.Critic).Tensors {
		n := len(t.Data)
		all = append(all, model.Tensor{Name: slowCritic + t.Name, Shape: t.Shape, Data: a.slow[at : at+n]})
		at += n
	}
	return append(all,
		model.Tensor{Name: returnRange, Shape: []int{2}, Data: []float32{a.norm.Low, a.norm.High}},
		model.Tensor{Name: advantageSize, Shape: []int{2}, Data: []float32{a.size.Mean, a.size.Seen}})
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
	a.norm.Low, a.norm.High, a.size.Mean, a.size.Seen = norm[0], norm[1], size[0], size[1]
	a.opt.Step = step
	return nil
}
