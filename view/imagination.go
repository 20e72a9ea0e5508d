package view

import (
	"fmt"
	"slices"

	"github.com/dreamfleet/dreamfleet/model"
)

// How an Imagination looks ahead.
const (
	// ImaginedAhead is the steps to the farther of its two predictions: a rollout's errors show by
	// then, and what is imagined does not yet hang on where it began.
	ImaginedAhead   = 8
	imaginedSamples = 16
)

// Imagination sets what a world model imagines beside what happens, as distributions: whether large jobs
// are as frequent in one as in the other, for example. A loss does not tell. It belongs to one goroutine.
type Imagination struct {
	predictor *model.Predictor
	out       []float32

	// Real are the observations of all steps, value by value, Next what was predicted one step ahead
	// of some of them and Ahead what was predicted ImaginedAhead steps ahead, several samples of each.
	Real, Next, Ahead [][]float32
}

// NewImagination takes a model's whole parameters; they must not change. Close frees it.
func NewImagination(params *model.Params) (*Imagination, error) {
	predictor, err := model.NewPredictor(params, imaginedSamples, 0x696d6167)
	if err != nil {
		return nil, fmt.Errorf("imagination: %w", err)
	}
	n := params.Config.Obs
	return &Imagination{
		predictor: predictor, out: make([]float32, ImaginedAhead*imaginedSamples*n),
		Real: make([][]float32, n), Next: make([][]float32, n), Ahead: make([][]float32, n),
	}, nil
}

// Close frees it.
func (m *Imagination) Close() { m.predictor.Close() }

// Add takes in a trial from its first step on, of whose frames it reads Obs, Flags and Action. After every
// ImaginedAhead steps it predicts under the actions that were then taken.
func (m *Imagination) Add(trial []Frame) {
	n := len(m.Real)
	actions := make([]int32, ImaginedAhead)
	for i, frame := range trial {
		m.predictor.Observe(frame.Obs, frame.Flags, int32(frame.Action))
		keep(m.Real, frame.Obs)
		ahead := trial[i+1:]
		if (i+1)%ImaginedAhead != 0 || len(ahead) < ImaginedAhead ||
			slices.ContainsFunc(ahead[:ImaginedAhead], func(f Frame) bool { return f.Flags&flagEpisodeStart != 0 }) {
			continue
		}
		for s := range actions {
			actions[s] = int32(trial[i+s].Action)
		}
		m.predictor.Predict(actions, m.out)
		for at := range imaginedSamples {
			last := (ImaginedAhead-1)*imaginedSamples + at
			keep(m.Next, m.out[at*n:(at+1)*n])
			keep(m.Ahead, m.out[last*n:(last+1)*n])
		}
	}
}

func keep(values [][]float32, row []float32) {
	for i, v := range row {
		values[i] = append(values[i], v)
	}
}
