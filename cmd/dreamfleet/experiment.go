package main

import "github.com/spf13/cobra"

func newExperimentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "experiment",
		Short: "Compare methods over tasks and seeds",
		Long: `An experiment trains methods with several seeds and scores them and heuristics on the same jobs. It is
a folder, from which a report is made.`,
		Example: `  dreamfleet experiment report experiments/standard --out experiments/standard/report.html`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExperimentReportCommand())
	return cmd
}
