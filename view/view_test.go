package view

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/model"
)

// rig is a policy in an environment under a camera, as an actor has them.
type rig struct {
	env    *loadbalance.Env
	trial  *env.Trial
	policy *model.Policy
	params *model.Params
	camera *Camera
	clips  []*Clip
	now    time.Time

	action int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{now: time.Unix(1e9, 0)}
	var err error
	cfg := loadbalance.DefaultConfig()
	cfg.Jobs = 70
	if r.env, err = loadbalance.New(cfg); err != nil {
		t.Fatal(err)
	}
	if r.trial, err = env.NewTrial(r.env, env.Fixed(loadbalance.ParkTask()), 2, 3); err != nil {
		t.Fatal(err)
	}
	spec := r.trial.Spec()
	c := model.Config{
		Obs: spec.Obs, Actions: spec.Actions, Deter: 32, Hidden: 16, Stoch: 4, Classes: 4, Units: 16, Layers: 1, Blocks: 2, Bins: 31,
		Recurrent: true, PolicyUnits: 8, Unimix: 0.01,
	}
	if r.params, err = model.NewParams(c); err != nil {
		t.Fatal(err)
	}
	r.params.Init(rand.New(rand.NewPCG(1, 2)))
	if r.policy, err = model.NewPolicy(c, 1, 5); err != nil {
		t.Fatal(err)
	}
	r.policy.Use(r.params)
	r.camera, err = NewCamera(CameraConfig{
		Run: "small", Actor: "a", Env: r.env, Scale: cfg.LoadScales[0], Probs: r.policy.Probs,
		Task: func() string { return r.trial.Task().Name() },
		Send: func(c *Clip) { r.clips = append(r.clips, c) }, Now: func() time.Time { return r.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tick takes a step as actor's rollout does.
func (r *rig) tick(t *testing.T) {
	t.Helper()
	step, err := r.trial.Next(r.action)
	if err != nil {
		t.Fatal(err)
	}
	see, begins := r.camera.Wants()
	var context []float32
	if begins {
		context = make([]float32, r.policy.ContextLen())
		r.policy.Context(context)
	}
	action, logProb := make([]int32, 1), make([]float32, 1)
	r.policy.Act(step.Obs, []uint8{uint8(step.Flags)}, step.Mask, action, logProb)
	r.action = int(action[0])
	if see {
		r.camera.See(step.Obs, uint8(step.Flags), r.action, 7, context)
	}
}

// A camera takes clips only while somebody asks, and no more than it may.
func TestCamera(t *testing.T) {
	r := newRig(t)
	for range 50 {
		r.tick(t)
	}
	if len(r.clips) != 0 {
		t.Fatal("a clip was taken that nobody asked for")
	}
	r.camera.Ask()
	for range 500 {
		r.tick(t)
	}
	if len(r.clips) != 1 {
		t.Fatalf("%d clips in an instant, want 1", len(r.clips))
	}
	r.now = r.now.Add(ClipInterval)
	r.camera.Ask()
	for range 500 {
		r.tick(t)
	}
	r.now = r.now.Add(AskedFor + time.Second)
	for range 500 {
		r.tick(t)
	}
	if len(r.clips) != 2 {
		t.Fatalf("%d clips, want 2: nobody asks any more", len(r.clips))
	}
	c := r.clips[1]
	if err := c.Check(); err != nil || c.Run != "small" || c.Actor != "a" || c.Version != 7 || c.Task != "park" || c.Source != "live" {
		t.Errorf("clip of %s/%s, task %s: %v", c.Run, c.Actor, c.Task, err)
	}
	for i, f := range c.Frames {
		var sum float32
		for k, p := range f.Probs {
			sum += p
			if want := f.Loads[k] / c.Scale; float32(want) != f.Obs[k] {
				t.Errorf("frame %d: load %d is %v, observed %v", i, k, f.Loads[k], f.Obs[k])
			}
		}
		if sum < 0.999 || sum > 1.001 || f.Probs[f.Action] == 0 {
			t.Errorf("frame %d: probabilities %v, action %d", i, f.Probs, f.Action)
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(data)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("a clip comes back otherwise: %v", err)
	}
}

// clip asks the camera for its first clip and waits for it.
func (r *rig) clip(t *testing.T) *Clip {
	t.Helper()
	r.camera.Ask()
	for len(r.clips) == 0 {
		r.tick(t)
	}
	return r.clips[0]
}

// A live clip has what a forecast needs, and one that does not fit the model is refused.
func TestForecast(t *testing.T) {
	r := newRig(t)
	c := r.clip(t)
	f, err := NewForecaster(r.params)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Add(c); err != nil {
		t.Fatal(err)
	}
	// Of 96 frames, forecasts follow the 32nd and 64th unless a trial ends under them;
	// an episode's end after 70 does stop one.
	if err := c.Check(); err != nil || len(c.Forecasts) == 0 || c.Forecasts[0].At != ForecastSteps-1 {
		t.Fatalf("%d forecasts, %v", len(c.Forecasts), err)
	}
	for s, high := range c.Forecasts[0].High {
		for k, v := range high {
			if low, middle := c.Forecasts[0].Low[s][k], c.Forecasts[0].Middle[s][k]; low < 0 || low > middle || middle > v {
				t.Fatalf("step %d, server %d: %v, %v, %v", s, k, low, middle, v)
			}
		}
	}
	other := *c
	other.Context = []byte{1, 2, 3, 4}
	if err := f.Add(&other); !errors.Is(err, ErrClip) {
		t.Errorf("a context of another width: %v", err)
	}
	other = *c.Slim()
	if err := f.Add(&other); !errors.Is(err, ErrClip) {
		t.Errorf("a clip without observations: %v", err)
	}
}

func TestClipFile(t *testing.T) {
	r := newRig(t)
	r.camera.Ask()
	for len(r.clips) == 0 {
		r.tick(t)
	}
	path := filepath.Join(t.TempDir(), "x"+Extension)
	if err := WriteFile(path, r.clips[0]); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil || !reflect.DeepEqual(got, r.clips[0].Slim()) {
		t.Errorf("a clip comes back otherwise: %v", err)
	}
	if len(r.clips[0].Context) == 0 || r.clips[0].Frames[0].Obs == nil {
		t.Error("writing has changed the clip")
	}
	if _, err := ReadFile(path + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestCheck(t *testing.T) {
	r := newRig(t)
	r.camera.Ask()
	for len(r.clips) == 0 {
		r.tick(t)
	}
	for want, change := range map[string]func(*Clip){
		"format is 2":      func(c *Clip) { c.Format = 2 },
		"0 servers":        func(c *Clip) { c.Servers = 0 },
		"0 frames":         func(c *Clip) { c.Frames = nil },
		"scale":            func(c *Clip) { c.Scale = 0 },
		"context of":       func(c *Clip) { c.Context = []byte{1} },
		"other lengths":    func(c *Clip) { c.Frames[1].Jobs = nil },
		"does not exist":   func(c *Clip) { c.Frames[1].Action = 10 },
		"an observation":   func(c *Clip) { c.Frames[1].Obs = nil },
		"a forecast after": func(c *Clip) { c.Forecasts = []Forecast{{At: 95, Middle: make([][]float64, 1)}} },
		"other servers": func(c *Clip) {
			c.Forecasts = []Forecast{{Low: make([][]float64, 1), Middle: make([][]float64, 1), High: make([][]float64, 1)}}
		},
		"a path of": func(c *Clip) { c.Forecasts = []Forecast{{Paths: [][]float64{{1}}}} },
	} {
		data, err := json.Marshal(r.clips[0])
		if err != nil {
			t.Fatal(err)
		}
		c, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		if err := c.Check(); !errors.Is(err, ErrClip) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"format":1,"servers":1,"scale":1,"frames":[{"loads":[1],"jobs":[1],"rates":[1],"probs":[1]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Decode(data)
		if err == nil && c.Slim().Check() != nil {
			t.Error("a valid clip is none once slim")
		}
	})
}

// Real values are all that were observed, and predictions come after every eighth step that is followed by
// eight of the same episode.
func TestImagination(t *testing.T) {
	r := newRig(t)
	c := r.clip(t)
	m, err := NewImagination(r.params)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	frames := slices.Clone(c.Frames[:40])
	for i := range frames {
		frames[i].Flags = 0
	}
	frames[0].Flags = model.First | flagEpisodeStart
	frames[20].Flags = flagEpisodeStart
	m.Add(frames)
	for i := range m.Real {
		// After 8 steps and after 24 and 32; what follows step 16 begins another episode.
		if len(m.Real[i]) != 40 || len(m.Next[i]) != 3*imaginedSamples || len(m.Ahead[i]) != len(m.Next[i]) {
			t.Fatalf("value %d: %d real, %d and %d predicted", i, len(m.Real[i]), len(m.Next[i]), len(m.Ahead[i]))
		}
		for k, f := range frames {
			if m.Real[i][k] != f.Obs[i] {
				t.Fatalf("value %d of step %d is %v, want %v", i, k, m.Real[i][k], f.Obs[i])
			}
		}
	}
}
