package model

import (
	"bytes"
	"math"
	"slices"
	"testing"
)

func TestBFloat16Rounds(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		bits uint32 // of a float32
		want uint16
	}{
		{0x3f800000, 0x3f80}, // 1
		{0xc0490fdb, 0xc049}, // -pi, down
		{0x3f80c000, 0x3f81}, // up
		{0x3f808000, 0x3f80}, // halfway, to the even one below
		{0x3f818000, 0x3f82}, // halfway, to the even one above
		{0x3f808001, 0x3f81}, // just beyond halfway
		{0x3fffffff, 0x4000}, // into the next exponent
		{0x00000000, 0x0000},
		{0x80000000, 0x8000}, // -0
		{0x00000001, 0x0000}, // the smallest subnormal
		{0x00018000, 0x0002}, // between two subnormals
		{0x7f7f0000, 0x7f7f}, // the largest
		{0x7f7fffff, 0x7f80}, // beyond it
		{math.Float32bits(-inf), 0xff80},
		{0x7f800001, 0x7fc0}, // no number, and none afterwards
		{0xffffffff, 0xffff},
	} {
		if got := bfloat16(math.Float32frombits(c.bits)); got != c.want {
			t.Errorf("%#x becomes %#x, want %#x", c.bits, got, c.want)
		}
	}
}

// A file in bfloat16 has half the data, holds the rounded values, and holds
// them for good: rounding what was rounded changes nothing.
func TestFileInBFloat16(t *testing.T) {
	f := sample()
	full := encode(t, f)
	f.DType = BF16
	half := encode(t, f)
	if values := 8; len(full)-len(half) < 2*values-8 { // headers are padded to 8 bytes
		t.Errorf("%d bytes in bfloat16, %d in float32", len(half), len(full))
	}
	got, err := Decode(half)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range f.Tensors {
		g := got.Tensors[i]
		if g.Name != want.Name || !slices.Equal(g.Shape, want.Shape) || len(g.Data) != len(want.Data) {
			t.Fatalf("tensor %d: %+v, want %+v", i, g, want)
		}
		for k, v := range want.Data {
			if rounded := math.Float32frombits(uint32(bfloat16(v)) << 16); g.Data[k] != rounded {
				t.Errorf("%s[%d] is %v, want %v", g.Name, k, g.Data[k], rounded)
			}
		}
	}
	got.DType = BF16
	if !bytes.Equal(encode(t, got), half) {
		t.Error("decoding and encoding changes the file")
	}
	f.DType = "F16"
	if _, err := f.WriteTo(&bytes.Buffer{}); err == nil {
		t.Error("a file was written in a type that is not known")
	}
}

// A policy acts with rounded parameters nearly as it does with the exact ones,
// from the same states and draws. What differs most are the steps in which a
// latent falls on the other side of its draw.
func TestActingInBFloat16(t *testing.T) {
	const rows, steps = 16, 100
	c := testConfig()
	params := randomParams(t, c)
	exact, rounded := newPolicy(t, c, rows), newPolicy(t, c, rows)
	for policy, dtype := range map[*Policy]DType{exact: F32, rounded: BF16} {
		blob, err := params.BlobAs(nil, dtype)
		if err != nil {
			t.Fatal(err)
		}
		if err := policy.Load(blob); err != nil {
			t.Fatal(err)
		}
	}
	r := newRand()
	flags, action, logProb := make([]uint8, rows), make([]int32, rows), make([]float32, rows)
	var sum, largest float64
	same := 0
	for range steps {
		state, err := exact.Save(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := rounded.Restore(state); err != nil {
			t.Fatal(err)
		}
		obs := normals(r, rows*c.Obs)
		exact.Act(obs, flags, nil, action, logProb)
		rounded.Act(obs, flags, nil, make([]int32, rows), logProb)
		p, q := exact.Probs(), rounded.Probs()
		for i := range p {
			d := math.Abs(float64(p[i] - q[i]))
			sum, largest = sum+d, max(largest, d)
		}
		for i := range rows {
			if argmax(p[i*c.Actions:(i+1)*c.Actions]) == argmax(q[i*c.Actions:(i+1)*c.Actions]) {
				same++
			}
		}
	}
	mean, share := sum/float64(rows*steps*c.Actions), float64(same)/(rows*steps)
	t.Logf("probabilities differ by %.2g in the mean and by %.2g at most; %.4f of the greedy actions are the same", mean, largest, share)
	if mean == 0 || mean > 0.01 || share < 0.95 {
		t.Errorf("probabilities differ by %v in the mean, and %v of the greedy actions are the same", mean, share)
	}
}
