package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// noArgs refuses arguments. One that stands where a subcommand belongs is answered with the nearest.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	why := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		why += "; did you mean " + strings.Join(near, " or ") + "?"
	} else if cmd.HasSubCommands() {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		why += "; it has " + strings.Join(names, ", ")
	} else if cmd.Flags().Lookup(args[0]) != nil {
		why += "; did you mean --" + args[0] + "?"
	}
	return errors.New(why)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "dreamfleet",
		Short: "Train meta-reinforcement-learning agents to balance load",
		Long: `dreamfleet trains meta-reinforcement-learning agents to balance load.

Actors run simulated servers under a recurrent policy and publish their trajectories over NATS to
a replay buffer. A learner trains a DreamerV3 world model on them, and the policy inside it, and
broadcasts the parameters back to the actors. A run is a folder: whatever stopped it, the same
command goes on with it.`,
		Example: `  # Learn Park's load balancing on this machine in less than 20 minutes; again to go on.
  dreamfleet train --preset small --run runs/small

  # See in 25 seconds that everything works.
  dreamfleet train --preset debug --run runs/debug

  # Score a heuristic on the evaluation seeds.
  dreamfleet env score --policy left --seeds 2000-2029

  # What can be configured, and what it costs.
  dreamfleet config --reference`,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	}
	root.AddCommand(
		newTrainCommand(), newEvaluateCommand(), newExportCommand(), newCurvesCommand(), newExperimentCommand(), newBenchCommand(), newEnvCommand(), newConfigCommand(),
		newNATSCommand(), newReplayCommand(), newLearnerCommand(), newActorCommand(), newDispatchCommand(), newLaunchCommand(), newStatusCommand(), newDashboardCommand(), newVersionCommand(),
	)
	return root
}
