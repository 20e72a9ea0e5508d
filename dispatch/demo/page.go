package main

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/dreamfleet/dreamfleet/monitor"
)

//go:embed page.html
var pageText string

// row sums up the response times of one policy, in seconds.
type row struct {
	Name                            string
	Mean, Median, P95, P99, Longest float64
	Ratio                           float64 // of its mean to LEFT's, on the same jobs
}

func rowOf(name string, samples []sample) row {
	times := make([]float64, len(samples))
	r := row{Name: name}
	for i, s := range samples {
		times[i] = s.Response
		r.Mean += s.Response / float64(len(samples))
	}
	slices.Sort(times)
	q := func(p float64) float64 { return times[int(p*float64(len(times)-1))] }
	r.Median, r.P95, r.P99, r.Longest = q(0.5), q(0.95), q(0.99), q(1)
	return r
}

func summarise(samples []sample) string {
	r := rowOf("", samples)
	return fmt.Sprintf("%d jobs, mean %.3f s, median %.3f, 95 %% %.3f, 99 %% %.3f", len(samples), r.Mean, r.Median, r.P95, r.P99)
}

// chart is one that the page shows, with its legend.
type chart struct {
	Title  string
	SVG    template.HTML
	Legend []string
}

func (r *results) writePage(path string) error {
	rows := []row{}
	for _, p := range r.Policies {
		rows = append(rows, rowOf(p, r.Compared[p]))
	}
	left := rows[slices.Index(r.Policies, "LEFT")].Mean
	for i := range rows {
		rows[i].Ratio = rows[i].Mean / left
	}
	var charts []chart
	for _, c := range []monitor.Chart{r.tails(), r.responses(), r.surprises(), r.shares()} {
		svg, err := c.SVG()
		if err != nil {
			return err
		}
		// The drawing is made here, of numbers and of names that stand in this program.
		shown := chart{Title: c.Title, SVG: template.HTML(svg)}
		for _, curve := range c.Curves {
			if !curve.Reference {
				shown.Legend = append(shown.Legend, curve.Name)
			}
		}
		charts = append(charts, shown)
	}
	deciders := map[string]int{}
	for _, s := range r.Incident {
		who := s.Decider
		if s.Reason != "" {
			who += ", " + s.Reason
		}
		deciders[who]++
	}
	page, err := template.New("page").Funcs(template.FuncMap{"add": func(a, b int) int { return a + b }}).Parse(pageText)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := page.Execute(&b, map[string]any{
		"Rates": r.Rates, "Unit": r.Unit * 1e3, "Jobs": len(r.Compared["LEFT"]), "Rows": rows, "Charts": charts, "Marks": r.Marks,
		"Deciders": deciders, "Limit": r.Limit, "Incident": len(r.Incident), "Cells": cells, "Load": load,
	}); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// tails are the shares of jobs that took longer than a time.
func (r *results) tails() monitor.Chart {
	c := monitor.Chart{Title: "Share of jobs that take longer", XLabel: "seconds", YLabel: "share of jobs", LogX: true, LogY: true}
	for _, p := range r.Policies {
		var times []float64
		for _, s := range r.Compared[p] {
			times = append(times, s.Response)
		}
		slices.Sort(times)
		curve := monitor.Curve{Name: p}
		for i, t := range times {
			curve.X, curve.Y = append(curve.X, t), append(curve.Y, 1-float64(i)/float64(len(times)))
		}
		c.Curves = append(c.Curves, curve)
	}
	return c
}

// slot is how many seconds a point of the incident's curves sums up.
const slot = 2.0

// slots are what f makes of the jobs of each slot.
func slots(samples []sample, f func([]sample) float64) (x, y []float64) {
	by := map[int][]sample{}
	last := 0
	for _, s := range samples {
		i := int(s.At / slot)
		by[i] = append(by[i], s)
		last = max(last, i)
	}
	for i := range last + 1 {
		v := math.NaN()
		if len(by[i]) > 0 {
			v = f(by[i])
		}
		x, y = append(x, (float64(i)+0.5)*slot), append(y, v)
	}
	return x, y
}

func (r *results) of(cell func(int) bool) (list []sample) {
	for _, s := range r.Incident {
		if cell(s.Cell) {
			list = append(list, s)
		}
	}
	return list
}

// marked adds the moments at which a server changed, as lines from low to high.
func (r *results) marked(c monitor.Chart, low, high float64) monitor.Chart {
	for _, m := range r.Marks {
		if strings.HasPrefix(m.What, "server") {
			c.Curves = append(c.Curves, monitor.Curve{Name: "", X: []float64{m.At, m.At}, Y: []float64{low, high}, Reference: true})
		}
	}
	return c
}

func (r *results) responses() monitor.Chart {
	c := monitor.Chart{Title: "Mean response time as a server slows down and recovers", XLabel: "seconds", YLabel: "seconds", LogY: true}
	low, high := math.Inf(1), 0.0
	for _, part := range []struct {
		name string
		cell func(int) bool
	}{{"cell-0, whose server slows down", func(i int) bool { return i == 0 }}, {"the other cells", func(i int) bool { return i != 0 }}} {
		x, y := slots(r.of(part.cell), func(s []sample) float64 { return rowOf("", s).Mean })
		for _, v := range y {
			if v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
		c.Curves = append(c.Curves, monitor.Curve{Name: part.name, X: x, Y: y})
	}
	return r.marked(c, low, high)
}

// surprises are each cell's, and the limit.
func (r *results) surprises() monitor.Chart {
	c := monitor.Chart{Title: "Surprise of the world model, and its limit", XLabel: "seconds", YLabel: "surprise"}
	last, high := 0.0, r.Limit
	for i := range cells {
		curve := monitor.Curve{Name: "cell-" + strconv.Itoa(i)}
		for _, s := range r.Surprise {
			if s.Cell == i {
				curve.X, curve.Y = append(curve.X, s.At), append(curve.Y, s.Value)
				last, high = max(last, s.At), max(high, s.Value)
			}
		}
		c.Curves = append(c.Curves, curve)
	}
	c.Curves = append(c.Curves, monitor.Curve{Name: "limit", X: []float64{0, last}, Y: []float64{r.Limit, r.Limit}, Reference: true})
	return r.marked(c, 0, high)
}

func (r *results) shares() monitor.Chart {
	c := monitor.Chart{Title: "Share of jobs that the policy decides", XLabel: "seconds", YLabel: "share of jobs"}
	byPolicy := func(s []sample) float64 {
		n := 0
		for _, s := range s {
			if s.Decider == "policy" {
				n++
			}
		}
		return float64(n) / float64(len(s))
	}
	for _, part := range []struct {
		name string
		cell func(int) bool
	}{{"cell-0, whose server slows down", func(i int) bool { return i == 0 }}, {"the other cells", func(i int) bool { return i != 0 }}} {
		x, y := slots(r.of(part.cell), byPolicy)
		c.Curves = append(c.Curves, monitor.Curve{Name: part.name, X: x, Y: y})
	}
	return r.marked(c, 0, 1)
}
