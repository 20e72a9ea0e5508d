package monitor

import (
	"bytes"
	"fmt"
	"html"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Size of a chart in a page, in the units of its view box: text of 11 units is legible at a phone's width.
const svgWidth, svgHeight = 420, 280

// SVG draws the chart as an element to stand inside an HTML page, which gives it its width, and its colours, by
// variables: --chart-1 to --chart-N for the palette of N = Colors, --chart-grid, --chart-reference; text and axes have
// the text's colour. It has no title and no legend, but names its levels and references where they end.
func (c Chart) SVG() (string, error) {
	p, err := c.plot()
	if err != nil {
		return "", fmt.Errorf("chart %s %w", c.Title, err)
	}
	p.Legend = plot.Legend{TextStyle: p.Legend.TextStyle, YPosition: p.Legend.YPosition}
	for _, style := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Font.Variant = "Sans"
		style.Font.Size = vg.Points(11)
	}
	p.BackgroundColor = nil
	p.X.Label.Padding, p.Y.Label.Padding = vg.Points(4), vg.Points(4)
	if labels := c.endLabels(); len(labels) > 0 {
		p.Add(endLabels{labels, p.X.Tick.Label})
	}
	canvas := vgsvg.New(svgWidth, svgHeight)
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(2), -vg.Points(10), vg.Points(2), -vg.Points(6)))
	var drawn bytes.Buffer
	if _, err := canvas.WriteTo(&drawn); err != nil {
		return "", fmt.Errorf("chart %s: %w", c.Title, err)
	}
	return themed(drawn.String(), c.Title)
}

var (
	svgOpening = regexp.MustCompile(`(?s)^.*?<svg.*?>`)
	svgFonts   = regexp.MustCompile(`font-family:[^;"]*;font-variant:[^;"]*;font-weight:[^;"]*;font-style:[^;"]*;?`)
)

// themed takes the page's font and colours for the drawing's own.
func themed(svg, title string) (string, error) {
	if !svgOpening.MatchString(svg) {
		return "", fmt.Errorf("chart %s: the drawing is no SVG element", title)
	}
	svg = svgOpening.ReplaceAllLiteralString(svg, fmt.Sprintf(
		`<svg viewBox="0 0 %d %d" role="img" aria-label="%s" fill="currentColor">`, svgWidth, svgHeight, html.EscapeString(title)))
	svg = svgFonts.ReplaceAllString(svg, "")
	names := []string{"#000000", "currentColor", hex(gridColor), "var(--chart-grid)", hex(referenceColor), "var(--chart-reference)"}
	for i, shade := range palette {
		names = append(names, hex(shade), fmt.Sprintf("var(--chart-%d)", i+1))
	}
	return strings.NewReplacer(names...).Replace(svg), nil
}

// hex is a colour as the SVG canvas writes it.
func hex(c color.Color) string {
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02X%02X%02X", r>>8, g>>8, b>>8)
}

// endLabel is a name at the height of what it names.
type endLabel struct {
	name string
	y    float64
}

// endLabels are the names of the chart's levels and references.
func (c Chart) endLabels() []endLabel {
	var labels []endLabel
	for _, l := range c.Levels {
		labels = append(labels, endLabel{l.Name, l.Y})
	}
	for _, curve := range c.Curves {
		if !curve.Reference || curve.Name == "" {
			continue
		}
		for i := len(curve.Y) - 1; i >= 0; i-- {
			if y := curve.Y[i]; !math.IsNaN(y) && !math.IsInf(y, 0) {
				labels = append(labels, endLabel{curve.Name, y})
				break
			}
		}
	}
	slices.SortStableFunc(labels, func(a, b endLabel) int {
		if a.y < b.y {
			return -1
		} else if a.y > b.y {
			return 1
		}
		return 0
	})
	return labels
}

// endLabels draw names to the right of the plot, moved apart where they would overlap.
type endLabels struct {
	labels []endLabel // ascending
	style  text.Style
}

func (e endLabels) Plot(c draw.Canvas, p *plot.Plot) {
	_, y := p.Transforms(&c)
	style := e.style
	style.Color = referenceColor
	style.XAlign, style.YAlign = text.XLeft, text.YCenter
	at := make([]float64, len(e.labels))
	for i, l := range e.labels {
		at[i] = float64(y(l.y))
	}
	size := float64(style.Font.Size)
	spread(at, 1.1*size, float64(c.Min.Y)+size/2, float64(c.Max.Y))
	for i, l := range e.labels {
		line := draw.LineStyle{Color: referenceColor, Width: vg.Points(0.5)}
		c.StrokeLine2(line, c.Max.X, y(l.y), c.Max.X+vg.Points(leader), vg.Length(at[i]))
		c.FillText(style, vg.Point{X: c.Max.X + vg.Points(leader+2), Y: vg.Length(at[i])}, l.name)
	}
}

// leader is the width of the line from a level to its name.
const leader = 8

// spread moves ascending positions at least so far apart, each cluster about its own mean, within limits as far as
// there is room.
func spread(at []float64, apart, low, high float64) {
	type cluster struct {
		centre float64
		n      int
	}
	var clusters []cluster
	for _, y := range at {
		clusters = append(clusters, cluster{y, 1})
		for last := len(clusters) - 1; last >= 0; last-- {
			c := &clusters[last]
			half := apart * float64(c.n-1) / 2
			c.centre = max(low+half, min(high-half, c.centre))
			if last == 0 {
				break
			}
			below := clusters[last-1]
			if c.centre-half-apart >= below.centre+apart*float64(below.n-1)/2 {
				break
			}
			n := below.n + c.n
			clusters[last-1] = cluster{(below.centre*float64(below.n) + c.centre*float64(c.n)) / float64(n), n}
			clusters = clusters[:last]
		}
	}
	i := 0
	for _, c := range clusters {
		for k := range c.n {
			at[i] = c.centre + apart*(float64(k)-float64(c.n-1)/2)
			i++
		}
	}
}

// GlyphBoxes reserves the room for the names.
func (e endLabels) GlyphBoxes(*plot.Plot) []plot.GlyphBox {
	var widest vg.Length
	for _, l := range e.labels {
		widest = max(widest, e.style.Width(l.name))
	}
	return []plot.GlyphBox{{X: 1, Y: 0.5, Rectangle: vg.Rectangle{Max: vg.Point{X: widest + vg.Points(leader+4)}}}}
}
