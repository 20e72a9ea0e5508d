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
	Color           int  // of the palette, from 1; beyond its end dashed; 0 takes the next
	Thin            bool // one of several that another sums up: without a name in the legend
	Reference       bool // something to compare with: dashed and grey, with its name, if any, where it ends
}

// Level is a dashed horizontal line to compare with.
type Level struct {
	Name string
	Y    float64
}

// Chart is a plot of learning curves.
type Chart struct {
	Title, XLabel, YLabel string
	LogX, LogY            bool // ratios that begin at 20 and end at 1 need it; values must be above 0
	Curves                []Curve
	Levels                []Level
}

// Okabe and Ito's colours, which are told apart by all kinds of sight.
var palette = [Colors]color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255},
	{230, 159, 0, 255}, {86, 180, 233, 255}, {60, 60, 60, 255},
}

// Colors is the number of colours of the palette.
const Colors = 7

var (
	gridColor      = color.Gray{225}
	referenceColor = color.Gray{90}
)

// SavePNG draws the chart into a file, 8 by 5 inches at 144 dots an inch, with its legend beside it.
func (c Chart) SavePNG(path string) error {
	p, err := c.plot()
	if err != nil {
		return fmt.Errorf("chart %s %w", path, err)
	}
	p.Title.Text = c.Title
	p.Title.Padding, p.X.Label.Padding, p.Y.Label.Padding = vg.Points(6), vg.Points(4), vg.Points(4)
	legend := p.Legend
	legend.Top, legend.Padding, legend.ThumbnailWidth = true, vg.Points(2), vg.Points(28)
	p.Legend = plot.NewLegend()
	canvas := vgimg.NewWith(vgimg.UseWH(8*vg.Inch, 5*vg.Inch), vgimg.UseDPI(144))
	room := draw.Crop(draw.New(canvas), vg.Points(8), -vg.Points(12), vg.Points(8), -vg.Points(8))
	beside := legend.Rectangle(room)
	p.Draw(draw.Crop(room, 0, -beside.Size().X-vg.Points(10), 0, 0))
	legend.Draw(draw.Crop(room, 0, 0, 0, -vg.Points(24))) // below the title's line
	var image bytes.Buffer
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(&image); err != nil {
		return fmt.Errorf("chart %s: %w", path, err)
	}
	return WriteAside(path, image.Bytes())
}

// plot has everything but a title and what depends on where it is drawn.
func (c Chart) plot() (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = c.XLabel, c.YLabel
	p.X.Tick.Marker, p.Y.Tick.Marker = shortTicks{whole: c.whole()}, shortTicks{}
	if c.LogX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, logTicks{}
	}
	if c.LogY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, logTicks{}
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor, gridColor
	p.Add(grid)

	low, high, points, references := math.Inf(1), math.Inf(-1), 0, 0
	for i, curve := range c.Curves {
		line, band, err := c.points(curve)
		if err != nil {
			return nil, fmt.Errorf("curve %s: %w", curve.Name, err)
		}
		if len(line) == 0 {
			continue
		}
		points += len(line)
		low, high = min(low, line[0].X), max(high, line[len(line)-1].X)
		number := i
		if curve.Color > 0 {
			number = curve.Color - 1
		}
		shade := palette[number%len(palette)]
		if len(band) > 0 {
			area, err := plotter.NewPolygon(band)
			if err != nil {
				return nil, fmt.Errorf("curve %s: %w", curve.Name, err)
			}
			area.LineStyle.Width = 0
			area.Color = color.NRGBA{shade.R, shade.G, shade.B, 50}
			p.Add(area)
		}
		l, err := plotter.NewLine(line)
		if err != nil {
			return nil, fmt.Errorf("curve %s: %w", curve.Name, err)
		}
		l.Color, l.Width = shade, vg.Points(1.6)
		switch {
		case curve.Thin:
			l.Width = vg.Points(0.5)
		case curve.Reference:
			l.LineStyle = referenceStyle(references)
			references++
		default: // a second round of colours is told apart by its dashes
			if round := number / len(palette); round > 0 {
				l.Dashes = []vg.Length{vg.Points(float64(4 * round)), vg.Points(2)}
			}
		}
		p.Add(l)
		if len(line) == 1 && !curve.Thin {
			dot, err := plotter.NewScatter(line)
			if err != nil {
				return nil, fmt.Errorf("curve %s: %w", curve.Name, err)
			}
			dot.GlyphStyle = draw.GlyphStyle{Color: l.Color, Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}
			p.Add(dot)
		}
		if !curve.Thin {
			p.Legend.Add(curve.Name, l)
		}
	}
	if points == 0 {
		return nil, errors.New("has no point to draw")
	}
	for _, level := range c.Levels {
		l, err := plotter.NewLine(plotter.XYs{{X: low, Y: level.Y}, {X: high, Y: level.Y}})
		if err != nil {
			return nil, fmt.Errorf("level %s: %w", level.Name, err)
		}
		l.LineStyle = referenceStyle(references)
		references++
		p.Add(l)
		p.Legend.Add(level.Name, l)
	}
	return p, nil
}

// referenceStyle is that of the levels and references in their order: the more of them, the longer the dashes.
func referenceStyle(i int) draw.LineStyle {
	return draw.LineStyle{Color: referenceColor, Width: vg.Points(1), Dashes: []vg.Length{vg.Points(float64(2 + 3*i)), vg.Points(3)}}
}

// whole reports whether the curves have points at integers only.
func (c Chart) whole() bool {
	for _, curve := range c.Curves {
		for _, x := range curve.X {
			if x != math.Trunc(x) {
				return false
			}
		}
	}
	return true
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
		if !ok(x, y) || c.LogY && y <= 0 || c.LogX && x <= 0 {
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

// shortTicks labels a linear axis at four to nine round values, thousands and millions as k and M.
type shortTicks struct{ whole bool } // whole: only at integers

func (t shortTicks) Ticks(low, high float64) []plot.Tick {
	if !(high > low) {
		return []plot.Tick{{Value: low, Label: short(low)}}
	}
	step := math.Pow(10, math.Floor(math.Log10(high-low)))
	for _, part := range []float64{1, 0.5, 0.2} {
		if (high-low)/(step*part) >= 4 {
			step *= part
			break
		}
	}
	if t.whole {
		step = max(1, step)
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: short(i * step)})
	}
	return ticks
}

// short writes a number as it stands on an axis.
func short(v float64) string {
	if v == 0 {
		return "0" // and not -0
	}
	for _, unit := range []struct {
		name string
		size float64
	}{{"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if math.Abs(v) >= unit.size {
			return fmt.Sprintf("%.4g%s", v/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%.4g", v)
}

// logTicks labels a logarithmic axis: a few values of each decade, fewer the more there are, and
// evenly where the axis shows less than a decade.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	if high < 4*low {
		return shortTicks{}.Ticks(low, high)
	}
	of := []float64{1, 1.5, 2, 3, 5}
	if decades := math.Log10(high / low); decades > 4 {
		of = of[:1]
	} else if decades > 2 {
		of = []float64{1, 3}
	}
	var ticks []plot.Tick
	for decade := math.Floor(math.Log10(low)); decade <= math.Log10(high); decade++ {
		for _, m := range of {
			if v := m * math.Pow(10, decade); low <= v && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: short(v)})
			}
		}
	}
	return ticks
}
