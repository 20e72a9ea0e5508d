package a2c

import (
	"fmt"
	"io"
	"strconv"

	"github.com/dreamfleet/dreamfleet/model"
)

// scales is the tensor of the moving averages.
const scales = "scales"

// Save writes parameters, optimiser, scales and step count as a safetensors
// file.
func (a *Agent) Save(w io.Writer) error {
	averages := model.Tensor{Name: scales}
	for _, v := range a.scales() {
		averages.Data = append(averages.Data, *v)
	}
	averages.Shape = []int{len(averages.Data)}
	f := model.File{
		Tensors:  append(a.opt.Tensors(), averages),
		Metadata: map[string]string{"step": strconv.FormatInt(a.opt.Step, 10)},
	}
	if _, err := f.WriteTo(w); err != nil {
		return fmt.Errorf("a2c: saving: %w", err)
	}
	return nil
}

// Load restores what Save wrote. On an error the agent must not be used.
func (a *Agent) Load(r io.Reader) error {
	f, err := model.ReadFile(r)
	if err != nil {
		return fmt.Errorf("a2c: loading: %w", err)
	}
	step, err := strconv.ParseInt(f.Metadata["step"], 10, 64)
	if err != nil || step < 0 {
		return fmt.Errorf("a2c: loading: step is %q", f.Metadata["step"])
	}
	averages := model.Tensor{Name: scales, Shape: []int{len(a.scales())}, Data: make([]float32, len(a.scales()))}
	if err := model.Assign(append(a.opt.Tensors(), averages), f); err != nil {
		return fmt.Errorf("a2c: loading: %w", err)
	}
	for i, v := range a.scales() {
		*v = averages.Data[i]
	}
	a.opt.Step = step
	return nil
}
