package view

import (
	"fmt"
	"math"
	"slices"

	"github.com/dreamfleet/dreamfleet/model"
)

// What a forecast is made of.
const (
	// ForecastSteps is how far it goes: as far as differences are seen with the eye.
	ForecastSteps = 32
	// Samples give the percentiles; 32 leave the 10th and 90th within some percent of
	// those of many more.
	Samples   = 32
	pathsKept = 4
)

// Forecaster adds forecasts to clips. It belongs to one goroutine.
type Forecaster struct {
	width     int // of an observation
	actions   int
	predictor *model.Predictor
	out       []float32
}

// NewForecaster takes a model's whole parameters; they must not change.
func NewForecaster(params *model.Params) (*Forecaster, error) {
	predictor, err := model.NewPredictor(params, Samples, 0x76696577)
	if err != nil {
		return nil, fmt.Errorf("forecast: %w", err)
	}
	c := params.Config
	return &Forecaster{width: c.Obs, actions: c.Actions, predictor: predictor, out: make([]float32, ForecastSteps*Samples*c.Obs)}, nil
}

// Close frees the forecaster.
func (f *Forecaster) Close() { f.predictor.Close() }

// Add replaces the clip's forecasts: one after every ForecastSteps frames that are
// followed by as many in the same trial. The clip must have been checked and have
// its observations. From a context of another model's the error is ErrClip.
func (f *Forecaster) Add(c *Clip) error {
	if len(c.Frames[0].Obs) != f.width || c.Servers != f.actions {
		return fmt.Errorf("%w: %d servers and observations of %d values, the model has %d and %d", ErrClip,
			c.Servers, len(c.Frames[0].Obs), f.actions, f.width)
	}
	if len(c.Context) > 0 {
		if err := f.predictor.Start(decodeContext(c.Context)); err != nil {
			return fmt.Errorf("%w: %w", ErrClip, err)
		}
	}
	c.Forecasts = nil
	actions := make([]int32, ForecastSteps)
	for i, frame := range c.Frames {
		f.predictor.Observe(frame.Obs, frame.Flags, int32(frame.Action))
		if (i+1)%ForecastSteps != 0 || i+ForecastSteps >= len(c.Frames) {
			continue
		}
		ahead := c.Frames[i+1 : i+1+ForecastSteps]
		if slices.ContainsFunc(ahead, func(f Frame) bool { return f.Flags&(model.First|flagEpisodeStart) != 0 }) {
			continue
		}
		for s := range actions {
			actions[s] = int32(c.Frames[i+s].Action)
		}
		f.predictor.Predict(actions, f.out)
		c.Forecasts = append(c.Forecasts, f.summarize(i, c))
	}
	return nil
}

// flagEpisodeStart marks the first step of an episode; see env.EpisodeStart.
const flagEpisodeStart = 2

// summarize takes percentiles of the samples in f.out.
func (f *Forecaster) summarize(at int, c *Clip) Forecast {
	forecast := Forecast{At: at, Paths: make([][]float64, pathsKept)}
	column := make([]float64, Samples)
	for s := range ForecastSteps {
		low, middle, high := make([]float64, c.Servers), make([]float64, c.Servers), make([]float64, c.Servers)
		for k := range c.Servers {
			for r := range Samples {
				column[r] = f.load(s, r, k, c.Scale)
			}
			slices.Sort(column)
			low[k], middle[k], high[k] = column[Samples/10], column[Samples/2], column[Samples-1-Samples/10]
		}
		forecast.Low = append(forecast.Low, low)
		forecast.Middle = append(forecast.Middle, middle)
		forecast.High = append(forecast.High, high)
		for r := range pathsKept {
			sum := 0.0
			for k := range c.Servers {
				sum += f.load(s, r, k, c.Scale)
			}
			forecast.Paths[r] = append(forecast.Paths[r], sum)
		}
	}
	return forecast
}

// load is a predicted load in whole units: no load is below 0, and a young model's
// exponentials may be anything.
func (f *Forecaster) load(step, sample, server int, scale float64) float64 {
	v := float64(f.out[(step*Samples+sample)*f.width+server]) * scale
	if !(v > 0) {
		return 0
	}
	return math.Round(min(v, 1e9))
}
