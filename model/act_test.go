package model

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
)

func variants() map[string]Config {
	base := testConfig()
	feedForward := base
	feedForward.Recurrent, feedForward.Blocks, feedForward.Layers = false, 1, 1
	gaussian := base
	gaussian.Gaussian, gaussian.Stoch = true, 2
	autoregressive := base
	autoregressive.Autoregressive = true
	return map[string]Config{"recurrent": base, "feed-forward": feedForward, "gaussian": gaussian, "autoregressive": autoregressive}
}

func randomParams(t testing.TB, c Config) *Params {
	t.Helper()
	p, err := NewParams(c)
	if err != nil {
		t.Fatal(err)
	}
	r := newRand()
	p.Init(r)
	for i, v := range normals(r, len(p.Data)) {
		p.Data[i] += 0.2 * v
	}
	return p
}

func newPolicy(t testing.TB, c Config, rows int) *Policy {
	t.Helper()
	p, err := NewPolicy(c, rows, 5)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Acting and training are one function: what Act computes step by step in some
// environments, the encoder, the Observer and the Imaginer compute over the
// whole sequences from the same draws.
func TestActAgreesWithObserverAndImaginer(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			const steps, rows = 7, 3
			params, r := randomParams(t, c), newRand()
			p := newPolicy(t, c, rows)
			p.Use(params)
			obs := normals(r, steps*rows*c.Obs)
			first := make([]bool, steps*rows)
			first[0], first[3*rows+1], first[6*rows+2] = true, true, true
			mask := make([]bool, steps*rows*c.Actions)
			for i := range mask {
				mask[i] = i%c.Actions == 0 || r.IntN(3) > 0
			}
			seq := &Sequences{Start: NewStates(c, rows), First: first, PrevAction: make([]int32, steps*rows)}
			rollout := &Rollout{Mask: mask}

			// Some steps before, so that the sequences begin within a trial.
			action, logProb := make([]int32, rows), make([]float32, rows)
			for range 3 {
				p.Act(normals(r, rows*c.Obs), make([]uint8, rows), nil, action, logProb)
			}
			seq.Start.Copy(p.states)
			rollout.PolicyStart = slices.Clone(p.policy.next)
			var deter, logits, policyLogits, probs []float32
			var latents Latents
			for step := range steps {
				flags := make([]uint8, rows)
				for b := range rows {
					if seq.PrevAction[step*rows+b] = p.action[b]; first[step*rows+b] {
						flags[b] = First
					}
				}
				p.Act(obs[step*rows*c.Obs:(step+1)*rows*c.Obs], flags, mask[step*rows*c.Actions:(step+1)*rows*c.Actions], action, logProb)
				seq.Draw = append(seq.Draw, p.draw...)
				deter = append(deter, p.states.Deter...)
				latents.Index, latents.Value = append(latents.Index, p.states.Stoch.Index...), append(latents.Value, p.states.Stoch.Value...)
				logits, policyLogits = append(logits, p.logits...), append(policyLogits, p.policy.logits...)
				probs = append(probs, p.probs...)
				for b, a := range action {
					closeTo(t, "log probability", float64(logProb[b]), math.Log(float64(p.probs[b*c.Actions+int(a)])), 1e-6)
				}
			}

			pool := NewPool(1)
			defer pool.Close()
			squashed, embed := make([]float32, len(obs)), make([]float32, steps*rows*c.Units)
			SymlogTo(squashed, obs)
			NewMLP(c, Encoder, steps*rows, pool).Forward(params.Module(Encoder).Data, Input{Vector: squashed}, embed)
			states, post := NewStates(c, steps*rows), make([]float32, steps*rows*c.LogitsLen())
			NewObserver(c, steps, rows, pool).Forward(params.Module(RSSM).Data, embed, seq, states, post)
			rollout.Draw, rollout.ActionDraw = make([]float32, steps*rows*c.DrawLen()), make([]float32, steps*rows)
			im := NewImaginer(c, steps, rows, steps, 1, 1, pool)
			dreamt := make([]float32, steps*rows*c.Actions)
			im.Forward(params.Module(Actor).Data, params.Module(RSSM).Data, params.Module(Prior).Data, states, seq, rollout, dreamt)

			same := func(what string, got, want []float32) {
				t.Helper()
				for i := range want {
					if !(math.Abs(float64(got[i]-want[i])) <= 1e-4) || len(got) != len(want) {
						t.Fatalf("%s: value %d is %v acting, %v training", what, i, want[i], got[i])
					}
				}
			}
			same("deterministic state", states.Deter, deter)
			same("posterior logits", post, logits)
			same("policy logits", dreamt, policyLogits)
			same("action probabilities", im.Probs, probs)
			if !slices.Equal(states.Stoch.Index, latents.Index) {
				t.Error("sampled classes differ")
			}
			same("sampled values", states.Stoch.Value, latents.Value)
		})
	}
}

// Rows are independent: a row acts the same alone and among others.
func TestRowsAreIndependent(t *testing.T) {
	c := testConfig()
	params := randomParams(t, c)
	const rows = 40
	r := newRand()
	obs, draw := normals(r, rows*c.Obs), make([]float32, rows*c.DrawLen())
	Uniforms(draw, r)
	all := func(rows int, obs, draw []float32) States {
		pool := NewPool(1)
		defer pool.Close()
		seq := &Sequences{Start: NewStates(c, rows), First: make([]bool, rows), PrevAction: make([]int32, rows), Draw: draw}
		states := NewStates(c, rows)
		embed := make([]float32, rows*c.Units)
		NewMLP(c, Encoder, rows, pool).Forward(params.Module(Encoder).Data, Input{Vector: obs}, embed)
		NewObserver(c, 1, rows, pool).Forward(params.Module(RSSM).Data, embed, seq, states, make([]float32, rows*c.LogitsLen()))
		return states
	}
	together := all(rows, obs, draw)
	for i := range rows {
		d := c.DrawLen()
		alone := all(1, obs[i*c.Obs:(i+1)*c.Obs], draw[i*d:(i+1)*d])
		row := together.Rows(c, i, i+1)
		if !slices.Equal(alone.Deter, row.Deter) || !slices.Equal(alone.Stoch.Index, row.Stoch.Index) {
			t.Fatalf("row %d of %d differs from the same row alone", i, rows)
		}
	}
}

// Before parameters are loaded a policy is uniform over what is allowed; bad
// parameters change nothing; Greedy takes the most probable action.
func TestPolicy(t *testing.T) {
	c := testConfig()
	const rows = 3000
	p := newPolicy(t, c, rows)
	flags, action, logProb := make([]uint8, rows), make([]int32, rows), make([]float32, rows)
	mask := make([]bool, rows*c.Actions)
	for i := range mask {
		mask[i] = i%c.Actions != 1
	}
	obs := normals(newRand(), rows*c.Obs)
	p.Greedy = true
	p.Act(obs, flags, mask, action, logProb)
	counts := make([]int, c.Actions)
	for i, a := range action {
		counts[a]++
		closeTo(t, "log probability", float64(logProb[i]), -math.Ln2, 1e-6)
	}
	if counts[1] != 0 || counts[0] < rows*45/100 || counts[2] < rows*45/100 {
		t.Errorf("actions %v of a policy without parameters; the second is not allowed", counts)
	}
	if err := p.Load([]byte("no parameters")); !errors.Is(err, ErrParams) {
		t.Errorf("loading nonsense: error %v", err)
	}
	other := c
	other.Units++
	blob, err := randomParams(t, other).Blob(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(blob); !errors.Is(err, ErrParams) || p.loaded {
		t.Errorf("loading another model: error %v", err)
	}
	if blob, err = randomParams(t, c).Blob(nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Load(blob); err != nil {
		t.Fatal(err)
	}
	p.Act(obs, flags, mask, action, logProb)
	for i, a := range action {
		row := p.probs[i*c.Actions : (i+1)*c.Actions]
		if row[a] != slices.Max(row) || a == 1 {
			t.Fatalf("greedy action %d of %v", a, row)
		}
	}
}

// Save and Restore continue a policy exactly, in the middle of trials.
func TestPolicyResumesExactly(t *testing.T) {
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			const rows = 4
			params := randomParams(t, c)
			p, q := newPolicy(t, c, rows), newPolicy(t, c, rows)
			p.Use(params)
			q.Use(params)
			r := newRand()
			play := func(p *Policy, obs []float32) ([]int32, []float32) {
				action, logProb := make([]int32, rows), make([]float32, rows)
				p.Act(obs, make([]uint8, rows), nil, action, logProb)
				return action, logProb
			}
			for range 3 {
				play(p, normals(r, rows*c.Obs))
			}
			state, err := p.Save(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Restore(state); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				obs := normals(r, rows*c.Obs)
				a, lp := play(p, obs)
				b, lq := play(q, obs)
				if !slices.Equal(a, b) || !slices.Equal(lp, lq) {
					t.Fatal("a restored policy acts otherwise")
				}
			}
			if err := newPolicy(t, c, rows+1).Restore(state); err == nil {
				t.Error("restored the state of another number of rows")
			}
			for _, n := range []int{0, 9, len(state) - 4} {
				if err := q.Restore(state[:n]); err == nil {
					t.Errorf("restored %d of %d bytes", n, len(state))
				}
			}
		})
	}
}

// A context row of zeros is the state before a trial.
func TestContextOfZeros(t *testing.T) {
	for name, c := range variants() {
		p := newPolicy(t, c, 2)
		row := make([]float32, 2*c.ContextLen())
		for i := range row {
			row[i] = 9
		}
		p.Context(row)
		if slices.ContainsFunc(row, func(v float32) bool { return v != 0 }) {
			t.Errorf("%s: context %v before the first step", name, row)
		}
	}
}

// What unpacks packs to the same row; what no row can hold is an error.
func FuzzUnpackContext(f *testing.F) {
	c := testConfig()
	r := newRand()
	good := make([]float32, c.ContextLen())
	copy(good, normals(r, c.Deter))
	for i := range c.Stoch {
		good[c.Deter+i] = float32(1 + i)
	}
	good[len(good)-1] = float32(c.Actions)
	bytesOf := func(x []float32) (b []byte) {
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		return b
	}
	f.Add(bytesOf(good), false)
	f.Add(bytesOf(make([]float32, len(good))), false)
	f.Add(bytesOf(make([]float32, c.Deter+c.StochLen()+c.PolicyUnits+1)), true)
	for _, bad := range []struct {
		at    int
		value float32
	}{{0, float32(math.NaN())}, {3, float32(math.Inf(-1))}, {c.Deter, 0}, {c.Deter, 1.5}, {c.Deter, 5}, {c.Deter + 1, -1}, {len(good) - 1, 4}, {len(good) - 1, 1e30}} {
		row := slices.Clone(good)
		row[bad.at] = bad.value
		if _, err := c.UnpackContext(row, NewStates(c, 1), make([]float32, c.PolicyUnits)); !errors.Is(err, ErrParams) {
			f.Errorf("value %v at %d of a context row: error %v", bad.value, bad.at, err)
		}
		f.Add(bytesOf(row), false)
	}
	if _, err := c.UnpackContext(good[1:], NewStates(c, 1), make([]float32, c.PolicyUnits)); !errors.Is(err, ErrParams) {
		f.Errorf("a short row: error %v", err)
	}
	f.Fuzz(func(t *testing.T, b []byte, gaussian bool) {
		c := testConfig()
		c.Gaussian = gaussian
		row := make([]float32, len(b)/4)
		for i := range row {
			row[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		s, policy := NewStates(c, 1), make([]float32, c.PolicyUnits)
		action, err := c.UnpackContext(row, s, policy)
		if err != nil {
			if !errors.Is(err, ErrParams) {
				t.Fatalf("error %v does not wrap ErrParams", err)
			}
			return
		}
		again := make([]float32, c.ContextLen())
		c.PackContext(again, s, policy, action)
		if !slices.Equal(row, again) {
			t.Fatalf("%v packs to %v", row, again)
		}
	})
}
