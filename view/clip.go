package view

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// Format is the version of a clip.
const Format = 1

// Bounds of a clip.
const (
	MaxServers = 256
	MaxFrames  = 20_000
	maxObs     = 1 << 14
	// MaxBytes is the largest clip in JSON: an episode of 1000 steps on ten
	// servers has 1.2 MB.
	MaxBytes = 64 << 20
)

// ErrClip is wrapped by the errors about what is no clip.
var ErrClip = errors.New("no valid clip")

// Clip is a stretch of steps in a row of one environment.
type Clip struct {
	Format  int    `json:"format"`
	Run     string `json:"run"`
	Actor   string `json:"actor"`  // or the policy that played a recorded episode
	Source  string `json:"source"` // "live" or "recorded"
	Task    string `json:"task"`
	Version uint64 `json:"version"` // of the parameters that acted at the first step

	Servers int     `json:"servers"`
	Scale   float64 `json:"scale"`             // the first Servers values of an observation are loads divided by this
	Context []byte  `json:"context,omitempty"` // recurrent context before the first step, f32 little-endian; empty: none
	Frames  []Frame `json:"frames"`

	// Forecasts are the world model's, in order of At.
	Forecasts []Forecast `json:"forecasts,omitempty"`
	// MeanJCT is the episode's mean job completion time, and Ratio that to
	// LEFT's on the same jobs; 0 where they are not known.
	MeanJCT float64 `json:"mean_jct,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
}

// Frame is a step: the servers as a job arrives, and what was done with it.
type Frame struct {
	Time  int64     `json:"t"`
	Size  int64     `json:"size"`  // of the incoming job; 0: there is none
	Loads []float64 `json:"loads"` // observed work of each server
	Jobs  []int     `json:"jobs"`  // at each server
	Rates []float64 `json:"rates"` // 0: the server is down
	Probs []float32 `json:"probs"` // of each server under the policy
	// Action was chosen; LEFT and Index are what the rules would have chosen.
	Action int `json:"action"`
	LEFT   int `json:"left"`
	Index  int `json:"index"`

	Flags uint8     `json:"flags,omitempty"` // as in a chunk
	Obs   []float32 `json:"obs,omitempty"`   // what the policy observed; left out of files
}

// Forecast is an open-loop prediction of the loads after a frame, under the
// actions that were then taken. Step s of it is of frame At+1+s.
type Forecast struct {
	At int `json:"at"`
	// Low, Middle and High are the 10th, 50th and 90th percentile over the samples
	// of each server's load, by step.
	Low    [][]float64 `json:"low"`
	Middle [][]float64 `json:"middle"`
	High   [][]float64 `json:"high"`
	// Paths are some single samples of the sum of all loads, by step.
	Paths [][]float64 `json:"paths"`
}

// Check returns an error wrapping ErrClip where a clip does not hold together.
func (c *Clip) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrClip, fmt.Sprintf(format, args...))
	}
	n := c.Servers
	switch {
	case c.Format != Format:
		return bad("format is %d, this program reads %d", c.Format, Format)
	case n < 1 || n > MaxServers:
		return bad("%d servers, want 1 to %d", n, MaxServers)
	case len(c.Frames) < 1 || len(c.Frames) > MaxFrames:
		return bad("%d frames, want 1 to %d", len(c.Frames), MaxFrames)
	case !(c.Scale > 0) || math.IsInf(c.Scale, 0):
		return bad("scale is %v, want above 0", c.Scale)
	case len(c.Context)%4 != 0:
		return bad("context of %d bytes", len(c.Context))
	}
	width := len(c.Frames[0].Obs)
	for i, f := range c.Frames {
		switch {
		case len(f.Loads) != n || len(f.Jobs) != n || len(f.Rates) != n || len(f.Probs) != n:
			return bad("frame %d has lists of other lengths than %d servers", i, n)
		case f.Action < 0 || f.Action >= n || f.LEFT < 0 || f.LEFT >= n || f.Index < 0 || f.Index >= n:
			return bad("frame %d chooses a server that does not exist", i)
		case len(f.Obs) != width || width > maxObs || width > 0 && width < n:
			return bad("frame %d has an observation of %d values", i, len(f.Obs))
		}
	}
	for _, f := range c.Forecasts {
		steps := len(f.Middle)
		if f.At < 0 || steps > len(c.Frames) || f.At+steps >= len(c.Frames) || len(f.Low) != steps || len(f.High) != steps {
			return bad("a forecast after frame %d of %d has %d steps", f.At, len(c.Frames), steps)
		}
		for s := range steps {
			if len(f.Low[s]) != n || len(f.Middle[s]) != n || len(f.High[s]) != n {
				return bad("a forecast has other servers than %d", n)
			}
		}
		for _, path := range f.Paths {
			if len(path) != steps {
				return bad("a path of %d steps, the forecast has %d", len(path), steps)
			}
		}
	}
	return nil
}

// Decode reads and checks a clip.
func Decode(data []byte) (*Clip, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrClip, len(data), MaxBytes)
	}
	c := new(Clip)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClip, err)
	}
	return c, c.Check()
}

// Extension ends the names of clips on disk, which are gzipped JSON.
const Extension = ".view.json.gz"

// WriteFile writes a clip without its observations and context, aside first.
func WriteFile(path string, c *Clip) error {
	small := c.Slim()
	aside, err := os.Create(path + ".new")
	if err != nil {
		return fmt.Errorf("write view: %w", err)
	}
	zip := gzip.NewWriter(aside)
	err = errors.Join(json.NewEncoder(zip).Encode(small), zip.Close(), aside.Close())
	if err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write view: %w", errors.Join(err, os.Remove(aside.Name())))
	}
	return nil
}

// ReadFile reads what WriteFile wrote.
func ReadFile(path string) (*Clip, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read view: %w", err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read view: %s: %w: %w", path, ErrClip, err)
	}
	var data bytes.Buffer
	if _, err := io.Copy(&data, io.LimitReader(zip, MaxBytes+1)); err != nil {
		return nil, fmt.Errorf("read view: %s: %w: %w", path, ErrClip, err)
	}
	c, err := Decode(data.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read view: %s: %w", path, err)
	}
	return c, nil
}

// Slim is the clip without what only a Forecaster needs.
func (c *Clip) Slim() *Clip {
	small := *c
	small.Context = nil
	small.Frames = make([]Frame, len(c.Frames))
	for i, f := range c.Frames {
		f.Obs = nil
		small.Frames[i] = f
	}
	return &small
}

func encodeContext(context []float32) []byte {
	var b []byte
	for _, v := range context {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func decodeContext(b []byte) []float32 {
	context := make([]float32, len(b)/4)
	for i := range context {
		context[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return context
}
