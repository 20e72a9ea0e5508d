package experiment_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/experiment"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-12 }

func TestStatisticsAgainstHandComputedValues(t *testing.T) {
	for _, c := range []struct {
		values            []float64
		mean, median, iqm float64
	}{
		{[]float64{7}, 7, 7, 7},
		{[]float64{3, 1}, 2, 2, 2},
		{[]float64{5, 1, 3}, 3, 3, 3},               // floor(3/4) = 0: nothing is cut
		{[]float64{100, 2, 0, 4}, 26.5, 3, 3},       // one cut at either end
		{[]float64{9, 1, 2, 3, 50}, 13, 3, 14. / 3}, // one of five: (2+3+9)/3
		{[]float64{8, 7, 6, 5, 4, 3, 2, 100}, 135. / 8, 5.5, 5.5},
	} {
		if m, md, q := experiment.Mean(c.values), experiment.Median(c.values), experiment.IQM(c.values); !near(m, c.mean) || !near(md, c.median) || !near(q, c.iqm) {
			t.Errorf("%v: mean %v, median %v, IQM %v; want %v, %v, %v", c.values, m, md, q, c.mean, c.median, c.iqm)
		}
	}
	if q := experiment.Quantile([]float64{10, 0, 20}, 0.975); !near(q, 19.5) {
		t.Errorf("quantile 0.975 of 0, 10, 20: %v, want 19.5", q)
	}
	for _, v := range []float64{experiment.Mean(nil), experiment.Median(nil), experiment.IQM(nil)} {
		if !math.IsNaN(v) {
			t.Errorf("a statistic of no values is %v, want NaN", v)
		}
	}
}

func TestStatisticsLeaveTheirInputAlone(t *testing.T) {
	values := []float64{3, 1, 2}
	experiment.Summarize(values)
	if values[0] != 3 || values[1] != 1 || values[2] != 2 {
		t.Errorf("values were reordered to %v", values)
	}
}

func TestBootstrapIQM(t *testing.T) {
	if low, high := experiment.BootstrapIQM([]float64{2, 2, 2}); low != 2 || high != 2 {
		t.Errorf("interval of equal values: [%v, %v]", low, high)
	}
	// Two values: a resample's IQM is 0, 1/2 or 1 with chances 1/4, 1/2 and 1/4, so both limits are at the ends.
	if low, high := experiment.BootstrapIQM([]float64{0, 1}); low != 0 || high != 1 {
		t.Errorf("interval of {0, 1}: [%v, %v], want [0, 1]", low, high)
	}
	// An IQM over many normal values is nearly normal with a standard error near 1.09/sqrt(n) (the asymptotic
	// variance of the 25 % trimmed mean at the normal distribution is 1.19/n).
	values := make([]float64, 100)
	for i := range values {
		values[i] = math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/100-1)
	}
	low, high := experiment.BootstrapIQM(values)
	if want := 2 * 1.96 * 1.09 / 10; math.Abs(high-low-want) > 0.1*want || math.Abs(high+low) > 0.04 {
		t.Errorf("interval [%v, %v], want a width near %v around 0", low, high, want)
	}
	again, _ := experiment.BootstrapIQM(values)
	if again != low {
		t.Errorf("two intervals of the same values begin at %v and %v", low, again)
	}
}

func TestRatiosArePairedBySeed(t *testing.T) {
	left := experiment.Scores{Policy: "left", Seeds: []uint64{1, 2}, MeanJCT: []float64{100, 1000}}
	mine := experiment.Scores{Policy: "mine", Seeds: []uint64{1, 2}, MeanJCT: []float64{50, 1500}}
	ratios, err := experiment.Ratios(mine, left)
	if err != nil || ratios[0] != 0.5 || ratios[1] != 1.5 {
		t.Errorf("ratios %v, %v", ratios, err)
	}
	for _, other := range []experiment.Scores{
		{Policy: "swapped", Seeds: []uint64{2, 1}, MeanJCT: []float64{50, 1500}},
		{Policy: "short", Seeds: []uint64{1, 2}, MeanJCT: []float64{50}},
	} {
		if _, err := experiment.Ratios(other, left); !errors.Is(err, experiment.ErrUnpaired) {
			t.Errorf("%s: error %v, want ErrUnpaired", other.Policy, err)
		}
	}
	zero := experiment.Scores{Policy: "zero", Seeds: []uint64{1, 2}, MeanJCT: []float64{100, 0}}
	if _, err := experiment.Ratios(mine, zero); err == nil || !strings.Contains(err.Error(), "seed 2") {
		t.Errorf("a reference of zero gives %v, want an error naming seed 2", err)
	}
}

func TestReport(t *testing.T) {
	left := experiment.Scores{Policy: "left", Seeds: []uint64{7}, MeanJCT: []float64{200}}
	report, err := experiment.NewReport(experiment.Scores{Policy: "mine", Seeds: []uint64{7}, MeanJCT: []float64{100}}, left)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := report.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	const want = `{"policy":"mine","seeds":[7],"mean_jct":[100],"ratio_to_left":{"mean":0.5,"iqm":0.5,"median":0.5,"ci95":[0.5,0.5]}}` + "\n"
	if out.String() != want {
		t.Errorf("JSON\n%swant\n%s", out.String(), want)
	}
	if !json.Valid([]byte(out.String())) {
		t.Error("not JSON")
	}

	var table strings.Builder
	if err := experiment.WriteTable(&table, []experiment.Row{report.Row()}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(table.String(), "\n"), "\n")
	if len(lines) != 2 || len(lines[0]) != len(lines[1]) || !strings.Contains(lines[1], "0.500 to 0.500") {
		t.Errorf("table\n%s", table.String())
	}
}
