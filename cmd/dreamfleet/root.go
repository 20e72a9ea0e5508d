package main

import "github.com/spf13/cobra"

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
		newTrainCommand(), newEvaluateCommand(), newCurvesCommand(), newBenchCommand(), newEnvCommand(), newConfigCommand(),
		newNATSCommand(), newReplayCommand(), newLearnerCommand(), newActorCommand(), newVersionCommand(),
	)
	return root
}
