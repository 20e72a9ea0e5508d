package monitor

import (
	"encoding/xml"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestChartAsSVGTakesThePagesColours(t *testing.T) {
	c := testChart()
	c.Curves = append(c.Curves, Curve{Name: "by <episode>", X: []float64{0, 1e5}, Y: []float64{1.2, 1.1}, Reference: true})
	svg, err := c.SVG()
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(svg))
	var texts []string
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok && strings.TrimSpace(string(text)) != "" {
			texts = append(texts, string(text))
		}
	}
	for _, want := range []string{"LEFT", "SITA2-LEFT", "by <episode>", "environment steps", "60k", "10"} {
		if !slices.Contains(texts, want) {
			t.Errorf("the chart does not say %q, but %q", want, texts)
		}
	}
	for _, want := range []string{"var(--chart-1)", "var(--chart-2)", "var(--chart-grid)", "var(--chart-reference)", "currentColor", "fill-opacity"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the chart does not use %s", want)
		}
	}
	if at := strings.Index(svg, "#"); at >= 0 && !strings.HasPrefix(svg[at:], "#39;") || strings.Contains(svg, "font-family") {
		t.Errorf("a colour or font of the drawing's own: %.40s", svg[max(0, at):])
	}
	if again, _ := c.SVG(); again != svg {
		t.Error("the same chart is drawn in two ways")
	}
	if _, err := (Chart{Title: "empty"}).SVG(); err == nil {
		t.Error("a chart without points is drawn")
	}
}

// Names keep their order and distance, stay inside, and do not move where there is room.
func TestSpread(t *testing.T) {
	far := []float64{10, 50, 90}
	spread(far, 12, 0, 100)
	if !slices.Equal(far, []float64{10, 50, 90}) {
		t.Errorf("moved to %v without need", far)
	}
	near := []float64{50, 50, 52}
	spread(near, 12, 0, 100)
	if want := 152.0 / 3; math.Abs(near[1]-want) > 1e-9 {
		t.Errorf("%v is not centred on %g", near, want)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		at := make([]float64, 1+r.IntN(8))
		for i := range at {
			at[i] = 100 * math.Pow(r.Float64(), 3)
		}
		slices.Sort(at)
		given := slices.Clone(at)
		spread(at, 12, 0, 100)
		for i := range at {
			if at[i] < -1e-9 || at[i] > 100+1e-9 || i > 0 && at[i]-at[i-1] < 12-1e-9 {
				t.Fatalf("%v spread to %v", given, at)
			}
		}
	}
}

func TestTicksAreRoundAndFew(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		low := r.NormFloat64() * math.Pow(10, 6*r.Float64()-2)
		high := low + math.Pow(10, 8*r.Float64()-3)
		ticks := shortTicks{}.Ticks(low, high)
		if len(ticks) < 4 || len(ticks) > 11 {
			t.Fatalf("%d ticks from %g to %g", len(ticks), low, high)
		}
	}
	for _, tick := range (shortTicks{whole: true}).Ticks(1, 4) {
		if strings.Contains(tick.Label, ".") {
			t.Errorf("episode %s", tick.Label)
		}
	}
	for v, want := range map[float64]string{250000: "250k", 1.5e6: "1.5M", 0.85: "0.85", 12: "12"} {
		if got := short(v); got != want {
			t.Errorf("%g is written %s, want %s", v, got, want)
		}
	}
}
