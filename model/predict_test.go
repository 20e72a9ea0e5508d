package model

import (
	"math"
	"math/rand/v2"
	"testing"
)

// With one sample the prediction is what the imaginer and the decoder compute from
// the same state, action and draws.
func TestPredictorAgreesWithTheImaginer(t *testing.T) {
	for name, c := range variants() {
		params := randomParams(t, c)
		p, err := NewPredictor(params, 2, 9)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		r := rand.New(rand.NewPCG(3, 4))
		obs := make([]float32, c.Obs)
		for step := range 4 {
			for i := range obs {
				obs[i] = float32(r.NormFloat64())
			}
			flags := uint8(0)
			if step == 0 {
				flags = First
			}
			p.Observe(obs, flags, int32(step%c.Actions))
		}
		start := NewStates(c, 1)
		start.Copy(p.policy.states)
		saved, err := p.policy.pcg.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 2*c.Obs)
		p.Predict([]int32{2}, got)
		if err := p.policy.pcg.UnmarshalBinary(saved); err != nil {
			t.Fatal(err)
		}
		draw := make([]float32, 2*c.DrawLen())
		c.Draws(draw, p.policy.rng)

		pool := NewPool(1)
		defer pool.Close()
		im := NewImaginer(c, 1, 1, 1, 1, 1, pool)
		logits := make([]float32, c.Actions)
		im.Forward(params.Module(Actor).Data, params.Module(RSSM).Data, params.Module(Prior).Data, start,
			&Sequences{First: []bool{false}}, &Rollout{
				PolicyStart: make([]float32, c.PolicyState()), Mask: []bool{false, false, true},
				Draw: draw[:c.DrawLen()], ActionDraw: []float32{0.5},
			}, logits)
		if im.Actions[0] != 2 {
			t.Fatalf("the imaginer took %d", im.Actions[0])
		}
		out := make([]float32, c.Obs)
		NewFrozenMLP(c, Decoder, 1, pool).Forward(params.Module(Decoder).Data, Input{States: im.States.Rows(c, 1, 2)}, out)
		for i, v := range out {
			if want := Symexp(float64(v)); math.Abs(float64(got[i])-want) > 1e-5*(1+math.Abs(want)) {
				t.Errorf("%s: value %d is %v, want %v", name, i, got[i], want)
			}
		}
	}
}
