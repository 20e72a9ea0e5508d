package experiment

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Report is a policy's scores and their paired ratios to LEFT, the dispatcher that knows the rates and takes the
// server of the least expected finish time.
type Report struct {
	Scores
	RatioToLEFT Summary `json:"ratio_to_left"`
	// ByEpisode has the ratios in each episode of a trial, where it has several; the rest is of the last one.
	ByEpisode []Summary `json:"ratio_to_left_by_episode,omitempty"`
}

// NewReport compares scores with those of LEFT on the same seeds.
func NewReport(scores, left Scores) (Report, error) {
	ratios, err := Ratios(scores, left)
	if err != nil {
		return Report{}, err
	}
	return Report{Scores: scores, RatioToLEFT: Summarize(ratios)}, nil
}

// NewTrialReport compares the scores of each episode of trials with LEFT's. What counts is the last episode, to which
// the policy has had the others to adapt.
func NewTrialReport(scores, left []Scores) (Report, error) {
	var report Report
	var ratios []Summary
	for e := range scores {
		var err error
		if report, err = NewReport(scores[e], left[e]); err != nil {
			return Report{}, err
		}
		ratios = append(ratios, report.RatioToLEFT)
	}
	if len(ratios) > 1 {
		report.ByEpisode = ratios
	}
	return report, nil
}

// WriteJSON writes the report as one JSON object with the keys policy, seeds, mean_jct, ratio_to_left and, where a
// trial has several episodes, ratio_to_left_by_episode.
func (r Report) WriteJSON(w io.Writer) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report of %s: %w", r.Policy, err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Row is a line of a score table.
type Row struct {
	Name    string
	MeanJCT float64
	Ratio   Summary // to LEFT
}

// Row condenses the report to a line.
func (r Report) Row() Row {
	return Row{Name: r.Policy, MeanJCT: Mean(r.MeanJCT), Ratio: r.RatioToLEFT}
}

// WriteTable writes rows in their order, as text in aligned columns.
func WriteTable(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "policy\tmean JCT\tratio to LEFT: IQM\t95 % interval\tmean\tmedian\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%.1f\t%.3f\t%.3f to %.3f\t%.3f\t%.3f\t\n",
			r.Name, r.MeanJCT, r.Ratio.IQM, r.Ratio.CI95[0], r.Ratio.CI95[1], r.Ratio.Mean, r.Ratio.Median)
	}
	return t.Flush()
}
