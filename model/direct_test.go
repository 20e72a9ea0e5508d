package model

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func directConfigs() map[string]ActorCriticConfig {
	c := ActorCriticConfig{Obs: 4, Actions: 3, Units: 6, Layers: 2, Recurrent: true, MemoryUnits: 5, Unimix: 0.01}
	plain := c
	plain.Recurrent = false
	return map[string]ActorCriticConfig{"recurrent": c, "feed-forward": plain}
}

func newDirect(t *testing.T, c ActorCriticConfig, rows int) *Direct {
	t.Helper()
	p, err := NewActorCriticParams(c)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p.Data {
		p.Data[i] = float32(0.5 * r.NormFloat64())
	}
	blob, err := p.Blob(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDirect(c, rows, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(blob); err != nil {
		t.Fatal(err)
	}
	return d
}

// acts takes so many steps with random observations, trials beginning now and
// then, and returns the actions.
func acts(d *Direct, seed uint64, steps int) (all []int32) {
	r := rand.New(rand.NewPCG(seed, 9))
	obs, flags := make([]float32, d.rows*d.cfg.Obs), make([]uint8, d.rows)
	action, logProb := make([]int32, d.rows), make([]float32, d.rows)
	for range steps {
		for i := range obs {
			obs[i] = float32(10 * r.NormFloat64())
		}
		for i := range flags {
			flags[i] = uint8(r.IntN(6)) / 5
		}
		d.Act(obs, flags, nil, action, logProb)
		all = append(all, action...)
	}
	return all
}

func TestDirectResumesExactly(t *testing.T) {
	for name, c := range directConfigs() {
		one, two := newDirect(t, c, 4), newDirect(t, c, 4)
		acts(one, 1, 20)
		state, err := one.Save(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := two.Restore(state); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(acts(one, 2, 20), acts(two, 2, 20)) {
			t.Errorf("%s: a restored policy acts otherwise", name)
		}
		if slices.Equal(acts(newDirect(t, c, 4), 2, 20), acts(two, 2, 20)) {
			t.Errorf("%s: the state is of no account", name)
		}
		for _, bad := range [][]byte{nil, state[:len(state)-1], bytes.Replace(state, []byte("rng"), []byte("gnr"), 1)} {
			if err := two.Restore(bad); !errors.Is(err, ErrParams) {
				t.Errorf("%s: error %v of a damaged state", name, err)
			}
		}
	}
}

// A row's context is all zeros before a trial, and what it holds leads to where
// the row was.
func TestDirectContext(t *testing.T) {
	c := directConfigs()["recurrent"]
	d := newDirect(t, c, 2)
	row := make([]float32, 2*d.ContextLen())
	d.Context(row)
	if slices.ContainsFunc(row, func(v float32) bool { return v != 0 }) {
		t.Errorf("context %v before the first step", row)
	}
	last := acts(d, 1, 7)
	d.Context(row)
	state := make([]float32, c.StateLen())
	action, err := c.UnpackContext(row[:c.ContextLen()], state)
	if err != nil || action != last[len(last)-2] || !slices.Equal(state, row[:c.StateLen()]) {
		t.Errorf("action %d and state %v of the row %v, %v", action, state, row, err)
	}
	for name, spoil := range map[string]func(r []float32) []float32{
		"short":    func(r []float32) []float32 { return r[1:] },
		"NaN":      func(r []float32) []float32 { r[1] = float32(math.NaN()); return r },
		"fraction": func(r []float32) []float32 { r[len(r)-1] = 1.5; return r },
		"beyond":   func(r []float32) []float32 { r[len(r)-1] = 4; return r },
	} {
		if _, err := c.UnpackContext(spoil(slices.Clone(row[:c.ContextLen()])), state); !errors.Is(err, ErrParams) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	plain := newDirect(t, directConfigs()["feed-forward"], 2)
	if plain.ContextLen() != 0 {
		t.Errorf("a feed-forward policy has %d context values", plain.ContextLen())
	}
}

// Before parameters are loaded a policy is uniform over what is allowed; bad
// parameters leave it as it is; and greedy takes the most probable action.
func TestDirect(t *testing.T) {
	c := directConfigs()["recurrent"]
	d, err := NewDirect(c, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	var counts [3]int
	action, logProb := make([]int32, 1), make([]float32, 1)
	for range 2000 {
		d.Act(make([]float32, c.Obs), []uint8{0}, []bool{true, false, true}, action, logProb)
		counts[action[0]]++
	}
	if counts[1] != 0 || counts[0] < 900 || counts[2] < 900 || math.Abs(float64(logProb[0])-math.Log(0.5)) > 1e-6 {
		t.Errorf("actions %v with log probability %v of a policy without parameters", counts, logProb[0])
	}
	for _, blob := range [][]byte{nil, []byte("no parameters at all"), {8, 0, 0, 0, 0, 0, 0, 0, '{', '}', ' ', ' ', ' ', ' ', ' ', ' '}} {
		if err := d.Load(blob); !errors.Is(err, ErrParams) || d.loaded {
			t.Errorf("error %v of bad parameters", err)
		}
	}
	greedy := newDirect(t, c, 1)
	greedy.Greedy = true
	for range 50 {
		greedy.Act([]float32{1, -2, 3, 0}, []uint8{0}, nil, action, logProb)
		if action[0] != argmax(greedy.Probs()) {
			t.Errorf("a greedy policy takes %d of %v", action[0], greedy.Probs())
		}
	}
}

func TestActorCriticParamsLayout(t *testing.T) {
	for name, c := range directConfigs() {
		p, err := NewActorCriticParams(c)
		if err != nil {
			t.Fatal(err)
		}
		p.Init(rand.New(rand.NewPCG(1, 1)))
		var modules []string
		for _, m := range p.Modules {
			modules = append(modules, m.Name)
		}
		want := []string{Memory, Actor, Critic}
		if !c.Recurrent {
			want = want[1:]
		}
		if !slices.Equal(modules, want) {
			t.Errorf("%s: modules %v", name, modules)
		}
		for _, x := range p.ActingTensors() {
			if strings.HasPrefix(x.Name, Critic) {
				t.Errorf("%s: acting needs %s", name, x.Name)
			}
		}
		for _, x := range p.Tensors() {
			zero := !slices.ContainsFunc(x.Data, func(v float32) bool { return v != 0 })
			if want := strings.HasSuffix(x.Name, "/bias") || x.Name == "critic/out/kernel"; zero != want {
				t.Errorf("%s: %s is zero: %v", name, x.Name, zero)
			}
		}
	}
	for want, spoil := range map[string]func(c *ActorCriticConfig){
		"obs is 0":        func(c *ActorCriticConfig) { c.Obs = 0 },
		"actions is 1":    func(c *ActorCriticConfig) { c.Actions = 1 },
		"policy_units is": func(c *ActorCriticConfig) { c.MemoryUnits = 1 << 17 },
		"unimix is -1":    func(c *ActorCriticConfig) { c.Unimix = -1 },
	} {
		c := directConfigs()["recurrent"]
		spoil(&c)
		if _, err := NewDirect(c, 1, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
