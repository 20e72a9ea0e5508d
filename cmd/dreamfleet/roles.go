package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/learner/dreamer"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

// joinFlags are those of a role that takes the run's configuration from the bus.
type joinFlags struct {
	url, creds, ca, run, name, level string
	monitor                          monitorFlag
}

func (f *joinFlags) register(cmd *cobra.Command, defaultRun, run string) {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	flags := cmd.Flags()
	flags.StringVar(&f.url, "nats", "", "`addresses` of the NATS servers, separated by commas (default: DREAMFLEET_NATS_URL)")
	flags.StringVar(&f.creds, "creds", "", "`file` with an NKey seed or credentials (default: DREAMFLEET_NATS_CREDS)")
	flags.StringVar(&f.ca, "ca", "", "PEM `file` of the authority that signed the servers' certificate")
	flags.StringVar(&f.run, "run", defaultRun, run)
	flags.StringVar(&f.name, "name", runName(host), "`name` of this process, for the others")
	flags.StringVar(&f.level, "log-level", "info", "trace, debug, info, warn or error")
	f.monitor.register(cmd)
}

// role is what a process does that has joined a run: until ctx ends.
type role func(ctx context.Context, cfg protocol.Config, bus *protocol.Bus, p *monitor.Process, log hclog.Logger) error

// join connects, waits for the run's configuration, so that starting order does not matter, and
// plays the role. When the run gets another configuration meanwhile, the role starts over with that.
func (f *joinFlags) join(cmd *cobra.Command, as protocol.Role, play role, checks ...string) error {
	ctx := cmd.Context()
	log := newLogger(f.level, cmd.ErrOrStderr())
	own := protocol.DefaultConfig()
	own.MergeEnvironment(os.LookupEnv)
	if f.url != "" {
		own.Bus.URL = f.url
	}
	if f.creds != "" {
		own.Bus.Creds = f.creds
	}
	own.Bus.CA = f.ca
	if own.Bus.URL == "" {
		return fmt.Errorf("%w: --nats or DREAMFLEET_NATS_URL must say where the bus is", protocol.ErrConfig)
	}
	checks = append([]string{checkBus, checkConfiguration}, checks...)
	p, err := f.monitor.start(ctx, string(as), own.Run, log, checks...)
	if err != nil {
		return err
	}
	defer p.Close()
	log.Info(waitingFor(own, os.LookupEnv))
	if f.run != "" {
		own.Run = runName(f.run)
	} else {
		run, err := protocol.FindRun(ctx, busConfig(own, nil, as, f.name), log.Named("bus"))
		if errors.Is(err, protocol.ErrManyRuns) {
			return fmt.Errorf("%w with --run", err)
		}
		if err != nil {
			return ended(ctx, err)
		}
		own.Run = run
	}
	for ctx.Err() == nil {
		p.Await(checks...)
		if err := f.playOnce(ctx, own, as, play, p, log); err != nil {
			return ended(ctx, err)
		}
	}
	return nil
}

// playOnce plays the role until ctx ends or the run has another configuration.
func (f *joinFlags) playOnce(ctx context.Context, own protocol.Config, as protocol.Role, play role, p *monitor.Process, log hclog.Logger) error {
	p.SetRun(own.Run)
	bus, err := protocol.Connect(ctx, busConfig(own, nil, as, f.name), log.Named("bus"))
	if err != nil {
		return err
	}
	defer bus.Close()
	showBus(p, as, bus)
	checkBuses(p, bus)
	document, err := bus.GetConfig(ctx)
	if err != nil {
		return err
	}
	cfg, err := protocol.DecodeConfig("the configuration of run "+own.Run, document)
	if err != nil {
		return err
	}
	own.Bus.StoreBytes, own.Bus.MaxAge = cfg.Bus.StoreBytes, cfg.Bus.MaxAge
	cfg.Bus = own.Bus
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		if bus.AwaitConfig(ctx, document) == nil {
			log.Info("the run has another configuration: starting over with it", "run", own.Run)
			cancel()
		}
	})
	p.Check(checkConfiguration, func() error { return nil })
	return play(ctx, cfg, bus, p, log)
}

func newActorCommand() *cobra.Command {
	var f joinFlags
	cmd := &cobra.Command{
		Use:   "actor",
		Short: "Act for a run whose bus is elsewhere",
		Long: `Run a process's actors: environments under the run's newest policy, whose trajectories go to the
replay. Everything but the bus's address and the key comes from the run's configuration on the bus, so
that as many actors as there are machines can join and leave at any time. They start over when the run gets
another configuration.`,
		Example: `  # Join the run on the bus.
  dreamfleet actor --nats nats://10.0.0.5:4222 --creds actor.nk

  # Of several runs, this one.
  dreamfleet actor --nats nats://10.0.0.5:4222 --creds actor.nk --run small`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.join(cmd, protocol.RoleActor, f.act)
		},
	}
	f.register(cmd, "", "`name` or folder of the run (default: the only one on the bus)")
	return cmd
}

// act is the actor's role.
func (f *joinFlags) act(ctx context.Context, cfg protocol.Config, bus *protocol.Bus, p *monitor.Process, log hclog.Logger) (err error) {
	w, err := newWorld(cfg)
	if err != nil {
		return err
	}
	if err := bus.Divide(cfg.Replay.Shards, 0); err != nil {
		return err
	}
	var publisher actor.Publisher = bus
	if path := os.Getenv(ledgerVariable); path != "" {
		ledger, err := actor.OpenLedger(path, bus, log.Named("actor"))
		if err != nil {
			return err
		}
		defer func() { bus.Close(); err = errors.Join(err, ledger.Close()) }()
		publisher = ledger
	}
	var actors []*actor.Actor
	for i := range cfg.Actor.Count {
		name, err := actor.Incarnate(f.name[:min(len(f.name), protocol.MaxName-12)] + fmt.Sprintf("-%d", i))
		if err != nil {
			return err
		}
		a, err := newActor(cfg, w, bus, publisher, i, name, p.Watchdog, log.Named("actor"))
		if err != nil {
			return err
		}
		actors = append(actors, a)
	}
	showActors(p, actors)
	log.Info("acting", "run", cfg.Run, "actors", len(actors), "environments", cfg.Actor.Envs)
	return actor.Serve(ctx, bus, log.Named("actor"), actors...)
}

func newReplayCommand() *cobra.Command {
	var f joinFlags
	var shard shardFlag
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Keep the replay of a run whose bus is elsewhere",
		Long: `Store a run's trajectories in its folder here, acknowledge them once they are on disk, and serve
batches to the learner. Everything else comes from the run's configuration on the bus.

Where that has replay.shards above 1, the run is divided among as many replays by the hash of each actor's
name, and each is told with --shard which one it is. While one is away the learner goes on with what the
others hold, and its actors' trajectories wait in the stream.`,
		Example: `  dreamfleet replay --nats nats://10.0.0.5:4222 --run /var/lib/dreamfleet/small

  # The first of two, for a run whose learner was started with --set replay.shards=2.
  dreamfleet replay --nats nats://10.0.0.5:4222 --run /var/lib/dreamfleet/small --shard 1/2`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(f.run, 0o755); err != nil {
				return fmt.Errorf("run folder: %w", err)
			}
			lock := "replay.lock"
			if shard.of > 1 {
				lock = fmt.Sprintf("replay-%d.lock", shard.number-1)
				f.name = runName(fmt.Sprintf("%.25s-%d", f.name, shard.number))
			}
			unlock, err := lockRun(filepath.Clean(f.run), lock)
			if err != nil {
				return err
			}
			defer unlock()
			keep := func(ctx context.Context, cfg protocol.Config, bus *protocol.Bus, p *monitor.Process, log hclog.Logger) error {
				return f.keep(ctx, cfg, bus, shard, p, log)
			}
			return f.join(cmd, protocol.RoleReplay, keep, checkStore)
		},
	}
	f.register(cmd, filepath.Join("runs", "small"), "run `folder`; its last part names the run on the bus")
	cmd.Flags().Var(&shard, "shard", "which `I/N` of the run's replays this is, from 1/N to N/N (default: the only one)")
	return cmd
}

// shardFlag is which of how many replays this is, from 1; 0 of 0: none is given.
type shardFlag struct{ number, of int }

func (f *shardFlag) Type() string { return "I/N" }

func (f *shardFlag) String() string {
	if f.of == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", f.number, f.of)
}

func (f *shardFlag) Set(text string) error {
	i, n, ok := strings.Cut(text, "/")
	number, err := strconv.Atoi(i)
	of, errOf := strconv.Atoi(n)
	if !ok || err != nil || errOf != nil || number < 1 || number > of || of > protocol.MaxShards {
		return fmt.Errorf("want I/N, such as 1/2, with N at most %d", protocol.MaxShards)
	}
	f.number, f.of = number, of
	return nil
}

// keep is the replay's role.
func (f *joinFlags) keep(ctx context.Context, cfg protocol.Config, bus *protocol.Bus, shard shardFlag, p *monitor.Process, log hclog.Logger) error {
	if onPolicy(cfg) {
		return fmt.Errorf("%w: run %s trains %s, whose learner takes the trajectories itself: it needs no replay", protocol.ErrConfig, cfg.Run, cfg.Learner.Algorithm)
	}
	shards, own := cfg.Replay.Shards, max(0, shard.number-1)
	if shards != max(1, shard.of) {
		return fmt.Errorf("%w: run %s has replay.shards %d: start each of its replays with --shard I/%d, from 1/%d on", protocol.ErrConfig, cfg.Run, shards, shards, shards)
	}
	if err := bus.Divide(shards, own); err != nil {
		return err
	}
	of := shardConfig(cfg, f.run, own)
	store, err := replay.Open(of, log.Named("replay"))
	if err != nil {
		return err
	}
	w, err := newWorld(cfg)
	if err == nil {
		shape := batchShape(cfg, w)
		err = store.Fits(shape.ObsLen, shape.Actions, cfg.Actor.ContextStride, shape.ContextLen)
	}
	if err == nil {
		err = bus.BoundTrajectories(ctx, cfg.Bus.StoreBytes, cfg.Bus.MaxAge)
	}
	if err != nil {
		return errors.Join(err, store.Close())
	}
	showReplay(p, store, int64(of.Capacity))
	log.Info("storing", "run", cfg.Run, "steps", store.Stats().Steps, "folder", of.Dir)
	service := replay.Service{Shard: own, Shards: shards, Store: store, Bus: bus, Log: log.Named("replay"), SaveEvery: saveInterval, Watchdog: p.Watchdog}
	return errors.Join(service.Run(ctx), store.Close())
}

func newLearnerCommand() *cobra.Command {
	var flags configFlags
	var url string
	var standby bool
	var monitor monitorFlag
	cmd := &cobra.Command{
		Use:   "learner",
		Short: "Train a run whose bus is elsewhere",
		Long: `Train on what a run's replay serves and broadcast the parameters to its actors. The learner brings
the run's configuration to the bus, where actors and replay wait for it, and keeps the run folder:
configuration, metrics, checkpoints and scores. It ends the run as 'train' does. Each checkpoint is
copied to the bus.

One learner leads a run at a time: it holds the run's lease, which it renews every second. With
--standby a second one waits until the lease has not been renewed for five seconds, and goes on from
the newest checkpoint on the bus. A leader that was cut off or stopped meanwhile is not listened to
any more, and ends with an error. When a leader has used the run's budget up, who waits for it ends too.`,
		Example: `  dreamfleet learner --nats nats://10.0.0.5:4222 --preset small --run runs/small

  # The same on another machine, in case the first one is lost, or after it was.
  dreamfleet learner --nats nats://10.0.0.5:4222 --preset small --run runs/small --standby

  # Everything that goes into and comes out of one training step, to compute it again elsewhere.
  dreamfleet learner dump --run runs/small --out step.safetensors`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url != "" {
				flags.sets = append(flags.sets, "bus.url="+url)
			}
			cfg, dir, err := flags.resolve(cmd, os.LookupEnv)
			if err != nil {
				return err
			}
			switch {
			case cfg.Bus.URL == "":
				return fmt.Errorf("%w: --nats or DREAMFLEET_NATS_URL must say where the bus is", protocol.ErrConfig)
			case cfg.Lockstep:
				return fmt.Errorf("%w: lockstep needs all roles in one process: use 'dreamfleet train'", protocol.ErrConfig)
			}
			return ended(cmd.Context(), learn(cmd, cfg, dir, standby, monitor))
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&url, "nats", "", "`addresses` of the NATS servers (default: DREAMFLEET_NATS_URL)")
	cmd.Flags().BoolVar(&standby, "standby", false, "wait until no other learner leads the run, then go on from the newest checkpoint on the bus")
	monitor.register(cmd)
	cmd.AddCommand(newDumpCommand())
	return cmd
}

// ended drops the error of a command that was asked to end while it waited.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// learn is the learner's role by itself.
func learn(cmd *cobra.Command, cfg protocol.Config, dir string, standby bool, monitor monitorFlag) (err error) {
	ctx := cmd.Context()
	w, err := newWorld(cfg)
	if err != nil {
		return err
	}
	e, err := newEvaluator(ctx, cfg, w, cfg.Evaluate.Seeds, cfg.Evaluate.Jobs)
	if err != nil {
		return err
	}
	agent, err := newAgent(cfg, w)
	if err != nil {
		return err
	}
	defer agent.Close()
	unlock, err := claimRun(dir, cfg, false)
	if err != nil {
		return err
	}
	defer unlock()
	logFile, err := openLog(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()
	log := newLogger(cfg.Log.Level, io.MultiWriter(cmd.ErrOrStderr(), logFile))
	p, err := monitor.start(ctx, string(protocol.RoleLearner), cfg.Run, log, checkBus, checkCheckpoint)
	if err != nil {
		return err
	}
	defer p.Close()
	log.Info(waitingFor(cfg, os.LookupEnv))
	bus, err := protocol.Connect(ctx, busConfig(cfg, nil, protocol.RoleLearner, "learner"), log.Named("bus"))
	if err != nil {
		return err
	}
	defer bus.Close()
	showBus(p, protocol.RoleLearner, bus)
	checkBuses(p, bus)
	if standby { // to stand by is its job until it leads
		p.Check(checkCheckpoint, func() error { return nil })
	}
	waiting := p.Watchdog.Loop("learner", "lead")
	waiting.Wait("lease")
	if err := bus.Divide(cfg.Replay.Shards, 0); err != nil {
		return err
	}
	lease, err := bus.TakeLease(ctx, standby)
	waiting.End()
	p.Await(checkCheckpoint)
	if errors.Is(err, protocol.ErrFinished) {
		log.Info("nothing is left to do", "reason", err)
		return nil
	}
	if err != nil {
		return err
	}
	end := lease.Release
	defer func() { err = errors.Join(err, letGo(end)) }()
	document, err := cfg.Encode()
	if err != nil {
		return err
	}
	if err := bus.PutConfig(ctx, document); err != nil {
		return err
	}
	if standby {
		if err := fetchCheckpoint(ctx, bus, dir, log); err != nil {
			return err
		}
	}
	updates, err := savedUpdates(dir, log)
	if err != nil {
		return err
	}
	watch, err := newWatch(cfg, dir, updates, e, cmd.OutOrStdout(), log)
	if err != nil {
		return err
	}
	defer watch.recorder.Close()
	broadcaster, err := lease.NewBroadcaster()
	if err != nil {
		return err
	}
	defer broadcaster.Close()
	in, err := intakeApart(cfg, w, dir, bus, watch, log)
	if err != nil {
		return err
	}
	watch.intake = in
	copying, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	copies := &copier{ctx: copying, lease: lease, keep: cfg.Learner.KeepCheckpoints, log: log.Named("learner")}
	loop, err := newLoop(cfg, dir, learner.Deps{
		Source: in, Algorithm: agent, Publisher: in.publisher(tap{broadcaster, watch}), Recorder: watch,
		Extra: in.parts(), Saved: copies.saved, Watchdog: p.Watchdog, Log: log.Named("learner"),
	})
	if err != nil {
		return err
	}
	if err := saveConfig(dir, cfg, os.LookupEnv); err != nil {
		return err
	}
	if w.note != "" {
		fmt.Fprintln(cmd.OutOrStdout(), w.note)
	}
	watch.buses = []*protocol.Bus{bus}
	watch.updates, watch.staleness = loop.Updates, loop.Staleness
	showLearner(p, loop, watch)

	budget, cancel := budgeted(ctx, cfg)
	defer cancel(nil)
	side, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return watch.run(side, cancel) })
	group.Go(func() error { return lead(side, lease, cancel) })
	group.Go(func() error { return in.run(side) })
	group.Go(func() error { return ended(side, lease.KeepConfig(side, document)) })
	group.Go(func() error {
		return ended(side, bus.Heartbeat(side, watch.status()))
	})
	group.Go(func() error { return watch.publishCurves(side, bus) })
	err = loop.Run(budget)
	cause := context.Cause(budget)
	stop()
	// The last checkpoint is in the folder; what it takes to copy it is bounded where a signal waits.
	late := time.AfterFunc(copyPatience, giveUp)
	copies.under.Wait()
	late.Stop()
	if err := errors.Join(err, group.Wait()); err != nil {
		return err
	}
	if ctx.Err() == nil {
		end = lease.Finish
	}
	blob, err := agent.Params(nil)
	if err != nil {
		return err
	}
	return watch.report(ctx, reason(ctx, cause), blob)
}

// lead ends the run, by cancel, when another learner has taken it over.
func lead(ctx context.Context, lease *protocol.Lease, cancel context.CancelCauseFunc) error {
	err := lease.Await(ctx)
	if ctx.Err() != nil {
		return nil
	}
	cancel(err)
	return err
}

// release lets the next learner lead at once.
func release(lease *protocol.Lease) error { return letGo(lease.Release) }

// letGo ends a lease, in one way or the other.
func letGo(end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), copyPatience)
	defer cancel()
	return end(ctx)
}

// intakeApart is what a learner by itself has of the steps: a replay elsewhere, or, on-policy, the
// trajectories as they come.
func intakeApart(cfg protocol.Config, w *world, dir string, bus *protocol.Bus, watch *watch, log hclog.Logger) (intake, error) {
	if onPolicy(cfg) {
		return newRollouts(cfg, w, dir, bus, watch.inserted, log.Named("collector"))
	}
	remote, err := bus.RemoteReplay(batchShape(cfg, w))
	if err != nil {
		return nil, err
	}
	return &replayElsewhere{RemoteReplay: remote, capacity: cfg.Replay.Capacity, bus: bus}, nil
}

// copyPatience leaves the rest of the ten seconds after a signal to the others.
const copyPatience = 4 * time.Second

// savedUpdates is the number of updates of a run's newest checkpoint, 0 for a new run.
func savedUpdates(dir string, log hclog.Logger) (int64, error) {
	ckpt, err := learner.Latest(filepath.Join(dir, checkpointDir), log)
	switch {
	case errors.Is(err, learner.ErrNoCheckpoint):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return ckpt.Manifest.Updates, nil
}

func newDumpCommand() *cobra.Command {
	var run, out, level string
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Write one training step with all that goes in and comes out",
		Long: `Make one training step from a run's newest checkpoint on a batch of its replay and write the batch,
every random draw, parameters, optimiser and normaliser before and after, the losses and all
gradients as one safetensors file, so that the step can be computed again in another framework. The
run itself is left as it is. docs/formats.md lists the tensors.`,
		Example: `  dreamfleet learner dump --run runs/small --out step.safetensors`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := savedConfig(run)
			if err != nil {
				return err
			}
			return dump(cmd.Context(), cfg, run, out, newLogger(level, cmd.ErrOrStderr()))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&run, "run", filepath.Join("runs", "small"), "run `folder`, its roles not running")
	flags.StringVar(&out, "out", "step.safetensors", "`file` to write")
	flags.StringVar(&level, "log-level", "warn", "trace, debug, info, warn or error")
	must(cmd.MarkFlagDirname("run"))
	return cmd
}

func dump(ctx context.Context, cfg protocol.Config, dir, out string, log hclog.Logger) (err error) {
	unlock, err := lockRun(dir, "lock")
	if err != nil {
		return err
	}
	defer unlock()
	w, err := newWorld(cfg)
	if err != nil {
		return err
	}
	saved, ckpt, err := savedAgent(cfg, w, dir, log)
	if err != nil {
		return err
	}
	defer saved.Close()
	agent, ok := saved.(*dreamer.Agent)
	if !ok {
		return fmt.Errorf("%w: learner dump is for runs of %s; this one's learner.algorithm is %s", protocol.ErrConfig, protocol.Dreamer, cfg.Learner.Algorithm)
	}
	of := replayConfig(cfg, dir, "")
	of.ReadOnly = true
	if cfg.Lockstep {
		of.State = ckpt.Dir
	}
	store, err := replay.Open(of, log.Named("replay"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var batch protocol.Batch
	if err := store.Sample(ctx, &batch, cfg.Learner.BatchSize, cfg.Learner.BatchLength); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(agent.Dump(f, &batch), f.Close())
}
