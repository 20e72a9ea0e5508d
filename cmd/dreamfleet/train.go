package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

func newTrainCommand() *cobra.Command {
	var flags configFlags
	var monitor monitorFlag
	var changeTask bool
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Train with all roles in this process",
		Long: `Train a run with actors, bus, replay and learner in one process, and score the policy beside the
heuristics at the end. A run is a folder; the same command on the same folder goes on with it.

The run ends when its budget of environment steps or of wall-clock time is used up, whichever comes
first. Ctrl-C or SIGTERM saves everything and ends within 10 seconds; a second one ends at once.

With --change-task a run goes on in another environment: its networks, optimiser, replay and counts
stay, and env keys may differ from those that it was begun with, as long as observations and actions
keep their number.`,
		Example: `  # Learn Park's load balancing on two cores in less than 20 minutes; again to go on.
  dreamfleet train --preset small

  # Another model, another folder, another seed.
  dreamfleet train --preset small --set model.deter=512 --run runs/wide --seed 1

  # Two runs of one seed, equal to the byte.
  dreamfleet train --preset debug --run runs/a --lockstep --seed 7
  dreamfleet train --preset debug --run runs/b --lockstep --seed 7

  # Learn one task, then another.
  dreamfleet train --preset debug --run runs/both --set env.observe_mask=true --steps 2000
  dreamfleet train --run runs/both --change-task --set env.tasks.servers=[5,9] --steps 4000

  # Let actors in other processes join.
  dreamfleet train --preset small --set bus.listen=127.0.0.1:4222
  dreamfleet actor --nats nats://127.0.0.1:4222 --run small`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, dir, err := flags.resolve(cmd, os.LookupEnv)
			if err != nil {
				return err
			}
			return train(cmd.Context(), cfg, dir, changeTask, monitor, cmd.OutOrStdout())
		},
	}
	flags.register(cmd)
	monitor.register(cmd)
	cmd.Flags().BoolVar(&changeTask, "change-task", false, "go on in another environment than the run's so far")
	return cmd
}

// training is a run with all its roles in this process.
type training struct {
	cfg   protocol.Config
	dir   string
	out   io.Writer
	log   hclog.Logger
	world *world

	document  []byte // the configuration as it is on the bus
	process   *monitor.Process
	evaluator *evaluator
	server    *protocol.Server
	buses     map[protocol.Role]*protocol.Bus
	lease     *protocol.Lease
	intake    intake
	agent     agent
	actors    []*actor.Actor
	loop      *learner.Loop
	watch     *watch
	page      *page // nil: no dashboard
}

// train runs a configuration in a run folder to the end of its budget or until ctx ends. With changeTask the
// environment may be another than the run's so far.
func train(ctx context.Context, cfg protocol.Config, dir string, changeTask bool, monitor monitorFlag, out io.Writer) (err error) {
	if cfg.Replay.Shards > 1 {
		return fmt.Errorf("%w: replay.shards is %d, and this process has one replay: start the roles apart, with 'dreamfleet learner' and so on", protocol.ErrConfig, cfg.Replay.Shards)
	}
	t := &training{cfg: cfg, dir: dir, out: out, buses: map[protocol.Role]*protocol.Bus{}}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.build(ctx); err != nil {
		return ended(ctx, err)
	}
	unlock, err := claimRun(dir, cfg, changeTask)
	if err != nil {
		return err
	}
	defer unlock()
	logFile, err := openLog(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()
	t.log = newLogger(cfg.Log.Level, logFile)
	checks := []string{checkBus, checkCheckpoint}
	if !onPolicy(cfg) {
		checks = append(checks, checkStore)
	}
	if t.process, err = monitor.start(ctx, "train", cfg.Run, t.log, checks...); err != nil {
		return err
	}
	defer t.process.Close()
	if at := t.process.Address(); at != "" {
		fmt.Fprintf(out, "Metrics and health are at http://%s\n", at)
	}
	if err := t.open(ctx); err != nil {
		return ended(ctx, err)
	}
	if err := saveConfig(dir, cfg, os.LookupEnv); err != nil {
		return err
	}
	if t.world.note != "" {
		fmt.Fprintln(out, t.world.note)
	}
	why, err := t.run(ctx)
	if err != nil {
		return err
	}
	blob, err := t.agent.Params(nil)
	if err != nil {
		return err
	}
	return ended(ctx, t.watch.report(ctx, why, blob))
}

// build makes what needs no folder, so that one in which nothing can run is not claimed.
func (t *training) build(ctx context.Context) (err error) {
	if t.world, err = newWorld(t.cfg); err != nil {
		return err
	}
	if t.evaluator, err = newEvaluator(ctx, t.cfg, t.world, t.cfg.Evaluate.Seeds, t.cfg.Evaluate.Jobs); err != nil {
		return err
	}
	t.agent, err = newAgent(t.cfg, t.world)
	return err
}

// open builds the roles from the bus upwards.
func (t *training) open(ctx context.Context) (err error) {
	if t.cfg.Lockstep {
		// What is on its way when a run stops is played again, to the byte.
		if err := os.RemoveAll(filepath.Join(t.dir, natsDir)); err != nil {
			return fmt.Errorf("lockstep: %w", err)
		}
	}
	if t.server, err = startServer(ctx, t.cfg, t.dir, t.log); err != nil {
		return err
	}
	if t.server != nil {
		showServer(t.process, t.server, t.log)
	} else {
		fmt.Fprintln(t.out, waitingFor(t.cfg, os.LookupEnv))
	}
	roles := []protocol.Role{protocol.RoleLearner, protocol.RoleReplay, protocol.RoleActor}
	if onPolicy(t.cfg) {
		roles = []protocol.Role{protocol.RoleLearner, protocol.RoleActor}
	}
	for _, role := range roles {
		bus, err := protocol.Connect(ctx, busConfig(t.cfg, t.server, role, string(role)), t.log.Named(string(role)))
		if err != nil {
			return err
		}
		t.buses[role] = bus
		showBus(t.process, role, bus)
	}
	if t.lease, err = t.buses[protocol.RoleLearner].TakeLease(ctx, false); err != nil {
		return err
	}
	if t.document, err = t.cfg.Encode(); err != nil {
		return err
	}
	if err := t.buses[protocol.RoleLearner].PutConfig(ctx, t.document); err != nil {
		return err
	}

	updates, state := int64(0), ""
	ckpt, err := learner.Latest(filepath.Join(t.dir, checkpointDir), t.log)
	switch {
	case err == nil:
		updates = ckpt.Manifest.Updates
		if t.cfg.Lockstep {
			state = ckpt.Dir
		}
	case !errors.Is(err, learner.ErrNoCheckpoint):
		return err
	case t.cfg.Lockstep:
		// Stopped before its first checkpoint, it begins anew.
		if err := os.RemoveAll(filepath.Join(t.dir, replayDir)); err != nil {
			return fmt.Errorf("lockstep: %w", err)
		}
	}
	if t.watch, err = newWatch(t.cfg, t.dir, updates, t.evaluator, t.out, t.log); err != nil {
		return err
	}
	for _, bus := range t.buses {
		t.watch.buses = append(t.watch.buses, bus)
	}
	checkBuses(t.process, t.watch.buses...)
	if t.page, err = openPage(t.cfg, t.dir); err != nil {
		return err
	}
	if t.page != nil {
		fmt.Fprintf(t.out, "Dashboard: %s\n", t.page.url)
	}
	if t.intake, err = t.openIntake(state); err != nil {
		return err
	}
	t.watch.intake = t.intake
	return t.openActorsAndLearner()
}

// openIntake opens the replay, to go on from the saved state in a folder, or what an on-policy
// algorithm has in its place.
func (t *training) openIntake(state string) (intake, error) {
	log := t.log.Named("replay")
	if onPolicy(t.cfg) {
		return newRollouts(t.cfg, t.world, t.dir, t.buses[protocol.RoleLearner], t.watch.inserted, t.log.Named("collector"))
	}
	store, err := openReplay(t.cfg, t.dir, state, log)
	if err != nil {
		return nil, err
	}
	showReplay(t.process, store, t.cfg.Replay.Capacity)
	r := &replayHere{cfg: t.cfg, dir: t.dir, store: store, service: replay.Service{
		Watchdog: t.process.Watchdog, Store: store, Bus: t.buses[protocol.RoleReplay], Log: log, Inserted: t.watch.inserted,
	}}
	if !t.cfg.Lockstep {
		r.service.SaveEvery = saveInterval
	}
	return r, nil
}

// saveInterval bounds what a crash costs the limiter and the samplers: their place, never steps. A
// learner that lives on when the replay is killed draws once more what that has forgotten.
const saveInterval = 2 * time.Second

func (t *training) openActorsAndLearner() error {
	for i := range t.cfg.Actor.Count {
		name := fmt.Sprintf("local-%d", i)
		if !t.cfg.Lockstep {
			var err error
			if name, err = actor.Incarnate(name); err != nil {
				return err
			}
		}
		a, err := newActor(t.cfg, t.world, t.buses[protocol.RoleActor], t.buses[protocol.RoleActor], i, name, t.process.Watchdog, t.log.Named("actor"))
		if err != nil {
			return err
		}
		t.actors = append(t.actors, a)
	}
	deps := learner.Deps{
		Source: t.intake, Algorithm: t.agent, Recorder: t.watch, Watchdog: t.process.Watchdog, Log: t.log.Named("learner"),
	}
	if t.cfg.Lockstep {
		deps.Publisher = direct{t}
		deps.Extra = t.lockstepParts()
	} else {
		broadcaster, err := t.lease.NewBroadcaster()
		if err != nil {
			return err
		}
		deps.Publisher = tap{broadcaster, t.watch}
	}
	deps.Publisher = t.intake.publisher(deps.Publisher)
	deps.Extra = append(deps.Extra, t.intake.parts()...)
	var err error
	if t.loop, err = newLoop(t.cfg, t.dir, deps); err != nil {
		return err
	}
	t.watch.actors, t.watch.updates, t.watch.staleness = t.actors, t.loop.Updates, t.loop.Staleness
	showActors(t.process, t.actors)
	showLearner(t.process, t.loop, t.watch)
	return nil
}

// serve ends the run, by cancel, when its server can no longer store.
func serve(ctx context.Context, server *protocol.Server, cancel context.CancelCauseFunc) error {
	err := ended(ctx, server.Await(ctx))
	if err != nil {
		cancel(err)
	}
	return err
}

// run trains until the budget is used up or ctx ends and says which. Roles stop in the order in
// which trajectories flow, so that what was acted arrives.
func (t *training) run(ctx context.Context) (why string, err error) {
	budget, cancel := budgeted(ctx, t.cfg)
	defer cancel(nil)
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	storing, stopStoring := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStoring()
	var side errgroup.Group
	side.Go(func() error { return t.watch.run(watching, cancel) })
	side.Go(func() error { return lead(watching, t.lease, cancel) })
	side.Go(func() error { return t.watch.publishCurves(watching, t.buses[protocol.RoleLearner]) })
	side.Go(func() error { return t.serveDashboard(watching) })
	if t.server != nil {
		side.Go(func() error { return serve(watching, t.server, cancel) })
	}
	side.Go(func() error { return ended(watching, t.lease.KeepConfig(watching, t.document)) })
	side.Go(func() error {
		return ended(watching, t.buses[protocol.RoleLearner].Heartbeat(watching, t.watch.status()))
	})
	side.Go(func() error {
		err := t.intake.run(storing)
		if err != nil {
			cancel(err)
		}
		return err
	})
	if t.cfg.Lockstep {
		err = t.lockstep(budget, cancel)
	} else {
		err = t.free(budget)
	}
	cause := context.Cause(budget)
	cancel(nil)
	stopWatching()
	stopStoring()
	if err := errors.Join(err, side.Wait()); err != nil {
		return "", err
	}
	return reason(ctx, cause), nil
}

// budgeted is ctx, ending when the run's wall-clock time is used up. Its cause says so.
func budgeted(ctx context.Context, cfg protocol.Config) (context.Context, context.CancelCauseFunc) {
	budget, cancel := context.WithCancelCause(ctx)
	if d := cfg.Budget.Duration; d > 0 {
		timer := time.AfterFunc(d, func() { cancel(fmt.Errorf("the budget of %v is used up", d)) })
		context.AfterFunc(budget, func() { timer.Stop() })
	}
	return budget, cancel
}

// errSteps is why a run ends whose steps are used up.
type errSteps struct{ limit int64 }

func (e errSteps) Error() string {
	return fmt.Sprintf("the budget of %d environment steps is used up", e.limit)
}

// reason says why a run ended.
func reason(ctx context.Context, cause error) string {
	if ctx.Err() != nil {
		return "interrupted"
	}
	return cause.Error()
}

// free lets actors and learner run side by side until ctx ends.
func (t *training) free(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	acting := make(chan struct{})
	learning, stopLearning := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLearning()
	group.Go(func() error {
		defer close(acting)
		return actor.Serve(ctx, t.buses[protocol.RoleActor], t.log.Named("actor"), t.actors...)
	})
	group.Go(func() error { return t.loop.Run(learning) })
	group.Go(func() error {
		<-ctx.Done()
		stopLearning()
		<-acting
		return nil
	})
	return group.Wait()
}

// close ends what open began, as far as it came.
func (t *training) close() error {
	var errs []error
	if t.page != nil {
		errs = append(errs, t.page.close())
	}
	if t.intake != nil {
		errs = append(errs, t.intake.close())
	}
	if t.watch != nil {
		errs = append(errs, t.watch.recorder.Close())
	}
	if t.lease != nil {
		errs = append(errs, release(t.lease))
	}
	for _, bus := range t.buses {
		bus.Close()
	}
	if t.server != nil {
		t.server.Close()
	}
	if t.agent != nil {
		errs = append(errs, t.agent.Close())
	}
	return errors.Join(errs...)
}
