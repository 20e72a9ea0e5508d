package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/deploy"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// launchFlags are those of launch and its subcommands.
type launchFlags struct {
	hosts, roles []string
	parallel     int
	dryRun       bool
}

func (f *launchFlags) register(cmd *cobra.Command, changes bool) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.hosts, "on", nil, "only hosts of this `name` or LABEL=VALUE; may be repeated")
	flags.StringSliceVar(&f.roles, "role", nil, "only this `role`: nats, replay, learner or actor; may be repeated")
	flags.IntVar(&f.parallel, "parallel", 16, "`hosts` at a time")
	if changes {
		flags.BoolVar(&f.dryRun, "dry-run", false, "print the commands instead of running them; hosts are only asked what they have")
	}
}

// fleet is the part of an inventory that the flags choose.
func (f *launchFlags) fleet(cmd *cobra.Command, v *deploy.Inventory) (*deploy.Fleet, error) {
	hosts, err := v.Select(f.hosts)
	if err != nil {
		return nil, err
	}
	if err := deploy.CheckRoles(f.roles); err != nil {
		return nil, err
	}
	if f.parallel < 1 {
		return nil, fmt.Errorf("--parallel %d: at least 1", f.parallel)
	}
	return &deploy.Fleet{
		Inventory: v, Hosts: hosts, Roles: f.roles, Run: deploy.SSH, Parallel: f.parallel, DryRun: f.dryRun, Out: cmd.OutOrStdout(),
	}, nil
}

// command is a subcommand that reads the inventory and acts on the fleet.
func (f *launchFlags) command(cmd *cobra.Command, act func(ctx context.Context, fleet *deploy.Fleet) error) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v, err := deploy.ReadInventory(args[0])
		if err != nil {
			return err
		}
		fleet, err := f.fleet(cmd, v)
		if err != nil {
			return err
		}
		return act(cmd.Context(), fleet)
	}
	return cmd
}

func newLaunchCommand() *cobra.Command {
	var f launchFlags
	cmd := f.command(&cobra.Command{
		Use:   "launch INVENTORY",
		Short: "Bring a run's roles to the hosts of an inventory, over ssh",
		Long: `Push the binary, the configuration and the keys to the hosts of an inventory over the installed ssh,
and start every role there, detached, under nohup or systemd. Again, it changes only what differs: a
role restarts when its binary, configuration, key or environment is another, or when it has failed.

The inventory is a YAML file; docs/operations.md has one, with every key. Hosts are reached as 'ssh'
reaches them, by the user's own configuration and keys, without asking for anything. A host that
cannot be reached is named at the end and keeps no other from being done.`,
		Example: `  # Make the fleet what the inventory says; first, see what that would do.
  dreamfleet launch fleet.yaml --dry-run
  dreamfleet launch fleet.yaml

  # How is everybody?
  dreamfleet launch status fleet.yaml

  # Four actors on one host instead of two; the inventory is changed too.
  dreamfleet launch scale fleet.yaml worker1=4

  # Roll out a new binary, role by role.
  dreamfleet launch fleet.yaml --role replay
  dreamfleet launch fleet.yaml --role actor
  dreamfleet launch fleet.yaml`,
	}, launch)
	f.register(cmd, true)
	cmd.AddCommand(newLaunchStatusCommand(), newLaunchLogsCommand(), newLaunchStopCommand(), newLaunchRestartCommand(), newLaunchScaleCommand())
	return cmd
}

// launch makes the fleet what its inventory says.
func launch(ctx context.Context, fleet *deploy.Fleet) error {
	running, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the running binary: %w", err)
	}
	sources, err := deploy.ReadSources(fleet.Inventory, running)
	if err != nil {
		return err
	}
	return fleet.Launch(ctx, sources)
}

func newLaunchStatusCommand() *cobra.Command {
	var f launchFlags
	cmd := f.command(&cobra.Command{
		Use:   "status INVENTORY",
		Short: "Show hosts, roles, versions, rates, staleness and heartbeats",
		Long: `Show for every role of every host whether it runs, for how long and which version, as the host says
over ssh; and what the role's last heartbeat on the bus says: its rate, how many parameter versions an
actor is behind the learner, and how old the heartbeat is. The bus must be reachable from here for that.`,
		Example: `  dreamfleet launch status fleet.yaml
  dreamfleet launch status fleet.yaml --on zone=a`,
	}, func(ctx context.Context, fleet *deploy.Fleet) error {
		reports, err := fleet.Observe(ctx)
		beats, busErr := heartbeats(ctx, fleet.Inventory)
		tableErr := deploy.WriteTable(fleet.Out, fleet.Inventory, reports, beats, time.Now())
		return errors.Join(tableErr, busErr, err)
	})
	f.register(cmd, false)
	must(cmd.Flags().MarkHidden("role"))
	return cmd
}

// heartbeats are those of the inventory's run.
func heartbeats(ctx context.Context, v *deploy.Inventory) ([]protocol.Heartbeat, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	bus, err := protocol.Connect(ctx, protocol.BusConfig{
		URL: v.URL(), Credentials: v.Key(string(protocol.RoleOperator)), Run: v.Run, Role: protocol.RoleOperator, Name: "launch", ReadOnly: true,
	}, hclog.NewNullLogger())
	if err != nil {
		return nil, fmt.Errorf("heartbeats are missing: %w", err)
	}
	defer bus.Close()
	beats, err := bus.Heartbeats(ctx)
	if err != nil {
		return nil, fmt.Errorf("heartbeats are missing: %w", err)
	}
	return beats, nil
}

func newLaunchLogsCommand() *cobra.Command {
	var f launchFlags
	var lines int
	var follow bool
	cmd := f.command(&cobra.Command{
		Use:   "logs INVENTORY",
		Short: "Show the last lines of the roles' logs, each with its host and role",
		Example: `  dreamfleet launch logs fleet.yaml --role learner --lines 50
  dreamfleet launch logs fleet.yaml --on worker1 --follow`,
	}, func(ctx context.Context, fleet *deploy.Fleet) error {
		return ended(ctx, fleet.Logs(ctx, lines, follow))
	})
	f.register(cmd, false)
	cmd.Flags().IntVarP(&lines, "lines", "n", 10, "`number` of lines of each role")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is added, until interrupted")
	return cmd
}

func newLaunchStopCommand() *cobra.Command {
	var f launchFlags
	cmd := f.command(&cobra.Command{
		Use:   "stop INVENTORY",
		Short: "Have roles save and end; 'launch' goes on with them",
		Example: `  dreamfleet launch stop fleet.yaml
  dreamfleet launch stop fleet.yaml --role actor --on zone=a`,
	}, func(ctx context.Context, fleet *deploy.Fleet) error { return fleet.Stop(ctx) })
	f.register(cmd, true)
	return cmd
}

func newLaunchRestartCommand() *cobra.Command {
	var f launchFlags
	cmd := f.command(&cobra.Command{
		Use:   "restart INVENTORY",
		Short: "End roles and start them again as they were last launched",
		Example: `  dreamfleet launch restart fleet.yaml --role actor
  dreamfleet launch restart fleet.yaml --on worker1`,
	}, func(ctx context.Context, fleet *deploy.Fleet) error { return fleet.Restart(ctx) })
	f.register(cmd, true)
	return cmd
}

func newLaunchScaleCommand() *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{
		Use:   "scale INVENTORY HOST=N...",
		Short: "Change how many actors hosts have, in the inventory and there",
		Long: `Write new numbers of actors into the inventory, of which nothing else changes, and launch the actors of
these hosts as it then says.`,
		Example: `  dreamfleet launch scale fleet.yaml worker1=8 worker2=0`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := deploy.ReadInventory(args[0])
			if err != nil {
				return err
			}
			if f.hosts, err = v.Scale(args[1:], f.dryRun); err != nil {
				return err
			}
			f.roles = []string{deploy.RoleActor}
			fleet, err := f.fleet(cmd, v)
			if err != nil {
				return err
			}
			return launch(cmd.Context(), fleet)
		},
	}
	cmd.Flags().IntVar(&f.parallel, "parallel", 16, "`hosts` at a time")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the commands instead of running them, and leave the inventory as it is")
	return cmd
}
