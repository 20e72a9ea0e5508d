package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Curve is a line with, where Low and High are given, a band around it. All have the length of X;
// points that are no finite numbers are left out.
type Curve struct {
	Name            string
	X, Y, Low, High []float64
}

// Level is a dashed horizontal line to compare with.
type Level struct {
	Name string
	Y    float64
}

// Chart is a plot of learning curves.
type Chart struct {
	Title, XLabel, YLabel string
	LogY                  bool // ratios that begin at 20 and end at 1 need it; values must be above 0
	Curves                []Curve
	Levels                []Level
}

// Okabe and Ito's colours, which are told apart by all kinds of sight.
var palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255},
	{230, 159, 0, 255}, {86, 180, 233, 255}, {60, 60, 60, 255},
}

// SavePNG draws the chart into a file, 8 by 5 inches at 144 dots an inch.
func (c Chart) SavePNG(path string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.Title, c.XLabel, c.YLabel
	p.Title.Padding, p.X.Label.Padding, p.Y.Label.Padding = vg.Points(6), vg.Points(4), vg.Points(4)
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(2)
	if c.LogY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, logTicks{}
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)

	low, high, points := math.Inf(1), math.Inf(-1), 0
	for i, curve := range c.Curves {
		line, band, err := c.points(curve)
		if err != nil {
			return fmt.Errorf("chart %s: curve %s: %w", path, curve.Name, err)
		}
		if len(line) == 0 {
			continue
		}
		points += len(line)
		low, high = min(low, line[0].X), max(high, line[len(line)-1].X)
		shade := palette[i%len(palette)]
		if len(band) > 0 {
			area, err := plotter.NewPolygon(band)
			if err != nil {
				return fmt.Errorf("chart %s: curve %s: %w", path, curve.Name, err)
			}
			area.LineStyle.Width = 0
			area.Color = color.NRGBA{shade.R, shade.G, shade.B, 50}
			p.Add(area)
		}
		l, err := plotter.NewLine(line)
		if err != nil {
			return fmt.Errorf("chart %s: curve %s: %w", path, curve.Name, err)
		}
		l.Color, l.Width = shade, vg.Points(1.6)
		p.Add(l)
		p.Legend.Add(curve.Name, l)
	}
	if points == 0 {
		return fmt.Errorf("chart %s has no point to draw", path)
	}
	for i, level := range c.Levels {
		l, err := plotter.NewLine(plotter.XYs{{X: low, Y: level.Y}, {X: high, Y: level.Y}})
		if err != nil {
			return fmt.Errorf("chart %s: level %s: %w", path, level.Name, err)
		}
		l.Color, l.Width = color.Gray{90}, vg.Points(1)
		l.Dashes = []vg.Length{vg.Points(float64(2 + 3*i)), vg.Points(3)}
		p.Add(l)
		p.Legend.Add(level.Name, l)
	}

	canvas := vgimg.NewWith(vgimg.UseWH(8*vg.Inch, 5*vg.Inch), vgimg.UseDPI(144))
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(8), -vg.Points(12), vg.Points(8), -vg.Points(8)))
	var image bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(&image); err != nil {
		return fmt.Errorf("chart %s: %w", path, err)
	}
	return writeAside(path, image.Bytes())
}

// points returns the drawable points of a curve and the outline of its band.
func (c Chart) points(curve Curve) (line, band plotter.XYs, err error) {
	n := len(curve.X)
	if len(curve.Y) != n || len(curve.Low) != len(curve.High) || len(curve.Low) != 0 && len(curve.Low) != n {
		return nil, nil, errors.New("lengths of X, Y, Low and High differ")
	}
	ok := func(values ...float64) bool {
		for _, v := range values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return false
			}
		}
		return true
	}
	var upper plotter.XYs
	for i, x := range curve.X {
		y := curve.Y[i]
		if !ok(x, y) || c.LogY && y <= 0 {
			continue
		}
		line = append(line, plotter.XY{X: x, Y: y})
		if len(curve.Low) > 0 && ok(curve.Low[i], curve.High[i]) && (!c.LogY || curve.Low[i] > 0) {
			band = append(band, plotter.XY{X: x, Y: curve.Low[i]})
			upper = append(upper, plotter.XY{X: x, Y: curve.High[i]})
		}
	}
	for i := len(upper) - 1; i >= 0; i-- {
		band = append(band, upper[i])
	}
	return line, band, nil
}

// logTicks labels a logarithmic axis: a few values of each decade, and tenths around 1 where the
// axis shows little else.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	add := func(v float64) {
		if low <= v && v <= high {
			ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
		}
	}
	if high < 4*low {
		for tenths := 1; tenths <= 40; tenths++ {
			add(float64(tenths) / 10)
		}
		return ticks
	}
	for decade := math.Floor(math.Log10(low)); decade <= math.Log10(high); decade++ {
		for _, m := range []float64{1, 1.5, 2, 3, 5} {
			add(m * math.Pow(10, decade))
		}
	}
	return ticks
}
