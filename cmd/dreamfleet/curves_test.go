package main

import (
	"fmt"
	"math"
	"testing"
)

// A line must not pass over an evaluation that is too high to be drawn.
func TestCurvesBeginWhereTheyStay(t *testing.T) {
	nan := math.NaN()
	for _, c := range [][2][]float64{
		{{90, 2, 1}, {nan, 2, 1}},
		{{90, 2, 5, 1.5, 1}, {nan, nan, nan, 1.5, 1}},
		{{2, 1}, {2, 1}},
		{{2, 90}, {nan, nan}},
		{{}, {}},
	} {
		if got := shown(c[0]); fmt.Sprint(got) != fmt.Sprint(c[1]) {
			t.Errorf("of %v is drawn %v, want %v", c[0], got, c[1])
		}
	}
}
