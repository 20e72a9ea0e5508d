package monitor

import (
	"bytes"
	"image"
	"image/png"
	"math"
	"path/filepath"
	"testing"
)

func testChart() Chart {
	curve := Curve{Name: "dreamer"}
	for i := range 40 {
		x := float64(i) * 2500
		y := 0.95 + 20*math.Exp(-x/9000)
		curve.X, curve.Y = append(curve.X, x), append(curve.Y, y)
		curve.Low, curve.High = append(curve.Low, y*0.9), append(curve.High, y*1.15)
	}
	curve.Y[5] = math.NaN()
	return Chart{
		Title: "Park's load_balance", XLabel: "environment steps", YLabel: "mean job completion time / LEFT", LogY: true,
		Curves: []Curve{curve, {Name: "a second", X: []float64{0, 1e5}, Y: []float64{15, 1.5}}},
		Levels: []Level{{"LEFT", 1}, {"SITA2-LEFT", 0.947}},
	}
}

func TestChartDrawsItsCurves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curves.png")
	if err := testChart().SavePNG(path); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader([]byte(readFile(t, path))))
	if err != nil {
		t.Fatal(err)
	}
	if size := img.Bounds().Size(); size != image.Pt(1152, 720) {
		t.Errorf("size %v", size)
	}
	for i, shade := range palette[:2] {
		pixels := 0
		for y := range 720 {
			for x := range 1152 {
				if r, g, b, _ := img.At(x, y).RGBA(); uint8(r>>8) == shade.R && uint8(g>>8) == shade.G && uint8(b>>8) == shade.B {
					pixels++
				}
			}
		}
		if pixels < 1000 {
			t.Errorf("curve %d has %d pixels of its colour", i, pixels)
		}
	}
}

func TestChartThatCannotBeDrawn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curves.png")
	for name, c := range map[string]Chart{
		"no curve":        {},
		"no point":        {Curves: []Curve{{X: []float64{1}, Y: []float64{math.NaN()}}}},
		"nothing above 0": {LogY: true, Curves: []Curve{{X: []float64{1}, Y: []float64{0}}}},
		"lengths differ":  {Curves: []Curve{{X: []float64{1, 2}, Y: []float64{1}}}},
		"half a band":     {Curves: []Curve{{X: []float64{1}, Y: []float64{1}, Low: []float64{1}}}},
	} {
		if err := c.SavePNG(path); err == nil {
			t.Errorf("%s was drawn", name)
		}
	}
}
