package monitor

import (
	"fmt"
	"math"
	"testing"
)

// A run of any length keeps its whole curve, by means, within the bound.
func TestHistory(t *testing.T) {
	h := NewHistory()
	const n = 10_007
	for i := range n {
		values := map[string]float64{"env/steps": float64(i), "loss/kl": float64(i), "bus/denied": 1, "actor/x": 1, "bad": math.NaN()}
		if i%1000 == 0 {
			values["evaluation/a"] = float64(-i)
		}
		h.Add(float64(2*i), values)
	}
	h.Add(0, map[string]float64{"loss/other": 1}) // nobody knows where
	h.SetLevel("index", 0.87)
	for i := range 100 {
		h.Add(0, map[string]float64{"env/steps": 1, fmt.Sprintf("more/%d", i): 1})
	}
	data, changes, err := h.Encode()
	if err != nil || changes == 0 || len(data) > 1<<19 {
		t.Fatalf("%d bytes, %d changes, %v", len(data), changes, err)
	}
	c, err := ParseCurves(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Series) != maxSeries || c.Levels["index"] != 0.87 {
		t.Errorf("%d series, levels %v", len(c.Series), c.Levels)
	}
	for _, name := range []string{"env/steps", "bus/denied", "actor/x", "bad", "loss/other"} {
		if _, ok := c.Series[name]; ok {
			t.Errorf("%s is kept", name)
		}
	}
	kl := c.Series["loss/kl"]
	if k := len(kl.X); k < maxPoints/2 || kl.X[k-1] != n-1 || kl.T[k-1] != 2*(n-1) {
		t.Errorf("the last of %d points is %d at %d", k, kl.X[k-1], kl.T[k-1])
	}
	before := int64(-1)
	for i, x := range kl.X {
		if mean := float64(before+1+x) / 2; math.Abs(float64(kl.Y[i])-mean) > 0.5 {
			t.Fatalf("point %d, of %d to %d, is %v, want %v", i, before+1, x, kl.Y[i], mean)
		}
		before = x
	}
	if e := c.Series["evaluation/a"]; len(e.X) != 11 || e.Y[10] != -10_000 {
		t.Errorf("evaluations are %v", e)
	}
}

func FuzzParseCurves(f *testing.F) {
	f.Add([]byte(`{"series":{"a":{"x":[1],"t":[2],"y":[3]}},"levels":{"index":0.8}}`))
	f.Add([]byte(`{"series":{"a":{"x":[1],"t":[2],"y":[]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCurves(data)
		if err != nil {
			return
		}
		for name, s := range c.Series {
			if len(s.X) != len(s.Y) || len(s.T) != len(s.X) {
				t.Errorf("%q passes with %d, %d, %d", name, len(s.X), len(s.T), len(s.Y))
			}
		}
	})
}
