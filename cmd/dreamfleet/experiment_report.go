package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/experiment"
	"github.com/dreamfleet/dreamfleet/monitor"
)

func newExperimentReportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report DIR|SCORES...",
		Short: "Write tables and plots of experiments as a page",
		Long: `Write a page about experiments, finished or not: scores as ratios to LEFT on the same jobs with 95 %
intervals, learning curves, adaptation within trials, forgetting and transfer in sequences, performance
profiles, probabilities of improvement, and how every run was made. The page asks for no other file,
and links to the raw scores, so keep it near them. Beside it stand the same numbers as JSON and the
scores as CSV.

Files of learning curves in the format of DreamerV3's published scores, .json or .json.gz, are drawn
as well.`,
		Example: `  # The page experiments/adaptive/report.html, with report.json and report.csv.
  dreamfleet experiment report experiments/adaptive --out experiments/adaptive/report.html

  # Several on one page, with published scores.
  dreamfleet experiment report experiments/standard experiments/continual scores/procgen.json.gz --out all.html`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.HasSuffix(out, ".html") {
				return fmt.Errorf("--out %s: want a name that ends in .html", out)
			}
			written, err := writeReport(args, out)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), strings.Join(written, "\n"))
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "report.html", "`file` for the page; its JSON and CSV have the same name")
	must(cmd.MarkFlagFilename("out", "html"))
	return cmd
}

// writeReport reads all, then writes the page, its JSON and its CSV.
func writeReport(args []string, out string) (written []string, err error) {
	name := strings.TrimSuffix(out, ".html")
	for _, path := range args {
		for _, f := range []string{out, name + ".json", name + ".csv"} {
			if same(path, f) {
				return nil, fmt.Errorf("%s would overwrite what it is made from; choose another --out", f)
			}
		}
	}
	var folders []*experiment.Folder
	var files []experiment.ScoresFileContent
	for _, path := range args {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			f, err := experiment.ReadFolder(path)
			if err != nil {
				return nil, err
			}
			folders = append(folders, f)
			continue
		}
		if !strings.HasSuffix(path, ".json") && !strings.HasSuffix(path, ".json.gz") {
			return nil, fmt.Errorf("%s is neither an experiment's folder nor a file of scores, whose name ends in .json or .json.gz", path)
		}
		curves, err := monitor.ReadScores(path)
		if err != nil {
			return nil, err
		}
		files = append(files, experiment.ScoresFileContent{Path: path, Curves: curves})
	}
	page, err := experiment.NewPage(folders, files, out)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		path  string
		write func(io.Writer) error
	}{{out, page.WriteHTML}, {name + ".json", page.WriteJSON}, {name + ".csv", page.WriteCSV}} {
		var content bytes.Buffer
		if err := f.write(&content); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
		if err := os.WriteFile(f.path, content.Bytes(), 0o644); err != nil {
			return nil, err
		}
		written = append(written, f.path)
	}
	return written, nil
}

// same reports whether two names are of one file.
func same(a, b string) bool {
	first, err1 := os.Stat(a)
	second, err2 := os.Stat(b)
	return errors.Join(err1, err2) == nil && os.SameFile(first, second)
}
