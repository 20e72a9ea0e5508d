package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dreamfleet/dreamfleet/dispatch"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

const (
	// dispatchAddress is where a dispatcher listens unless told otherwise.
	dispatchAddress = "127.0.0.1:7463"
	// lookEvery is how often it looks for newer parameters.
	lookEvery = 5 * time.Second

	checkParameters = "parameters"
)

// dispatchFlags are those of a dispatcher.
type dispatchFlags struct {
	joinFlags
	plan, listen, state string
}

func newDispatchCommand() *cobra.Command {
	var f dispatchFlags
	cmd := &cobra.Command{
		Use:   "dispatch",
		Short: "Answer which server an arriving job shall go to",
		Long: `Serve a run's policy to those who have jobs to place: HTTP at --listen and, with --nats, a NATS micro
service. It begins in the shadow stage, where a rule decides and the policy is recorded beside it, and
takes over step by step as a plan and humans allow. Guards give decisions back to the rule, within the same
request. docs/dispatch.md tells all of that.

Without --nats parameters come from the checkpoints in the run folder; with it, the run's configuration and
its checkpoints come from the bus. Newer ones are taken up as they appear.`,
		Example: `  # Serve the policy of a run folder, in the shadow stage.
  dreamfleet dispatch --run runs/small

  # A plan, and the bus.
  dreamfleet dispatch --run small --plan plan.yaml --nats nats://10.0.0.5:4222 --creds dispatcher.nk

  # What it does; one step up; back to an earlier version; all holds off.
  dreamfleet dispatch status
  dreamfleet dispatch approve
  dreamfleet dispatch rollback 12000
  dreamfleet dispatch release

  # The plan's keys with their defaults.
  dreamfleet dispatch plan`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return ended(cmd.Context(), f.serve(cmd)) },
	}
	f.register(cmd, filepath.Join("runs", "small"), "run `folder`, or with --nats the run's name")
	flags := cmd.Flags()
	flags.StringVar(&f.plan, "plan", "", "YAML `file` of the plan (default: that of dispatch plan)")
	flags.StringVar(&f.listen, "listen", dispatchAddress, "`address` to serve HTTP at")
	flags.StringVar(&f.state, "state", "", "`folder` of state, kept versions and the audit log (default: dispatch in the run folder)")
	must(cmd.MarkFlagFilename("plan", "yaml", "yml"))
	must(cmd.MarkFlagDirname("state"))
	cmd.AddCommand(newDispatchPlanCommand(), newCalibrateCommand(), newDispatchStatusCommand(), newApproveCommand(), newRollbackCommand(), newReleaseCommand(), newStepDownCommand())
	return cmd
}

// readPlan reads the plan, or takes the default one.
func (f *dispatchFlags) readPlan() (dispatch.Plan, error) {
	if f.plan == "" {
		return dispatch.DefaultPlan(), nil
	}
	file, err := os.Open(f.plan)
	if err != nil {
		return dispatch.Plan{}, fmt.Errorf("plan: %w", err)
	}
	defer file.Close()
	p, err := dispatch.ReadPlan(f.plan, file)
	return p, planError(err)
}

// planError makes what is wrong with a plan what is wrong with the command line.
func planError(err error) error {
	if errors.Is(err, dispatch.ErrPlan) {
		return fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	return err
}

func (f *dispatchFlags) serve(cmd *cobra.Command) error {
	ctx := cmd.Context()
	log := newLogger(f.level, cmd.ErrOrStderr())
	plan, err := f.readPlan()
	if err != nil {
		return err
	}
	if err := monitor.CheckListen(f.listen); err != nil {
		return fmt.Errorf("%w: --listen: %w", protocol.ErrConfig, err)
	}
	own := protocol.DefaultConfig()
	own.MergeEnvironment(os.LookupEnv)
	if f.url != "" {
		own.Bus.URL = f.url
	}
	if f.creds != "" {
		own.Bus.Creds = f.creds
	}
	own.Bus.CA, own.Run = f.ca, runName(f.run)
	p, err := f.monitor.start(ctx, string(protocol.RoleDispatcher), own.Run, log, checkParameters)
	if err != nil {
		return err
	}
	defer p.Close()
	d := &dispatcher{plan: plan, listen: f.listen, dir: f.run, state: f.state, name: f.name, log: log, monitor: p}
	if d.state == "" {
		d.state = filepath.Join(f.run, "dispatch")
		if own.Bus.URL != "" {
			d.state = filepath.Join("runs", own.Run, "dispatch")
		}
	}
	if own.Bus.URL == "" {
		if d.cfg, err = savedConfig(f.run); err != nil {
			return err
		}
		return d.run(ctx)
	}
	log.Info(waitingFor(own, os.LookupEnv))
	if d.bus, err = protocol.Connect(ctx, busConfig(own, nil, protocol.RoleDispatcher, f.name), log.Named("bus")); err != nil {
		return err
	}
	defer d.bus.Close()
	showBus(p, protocol.RoleDispatcher, d.bus)
	checkBuses(p, d.bus)
	document, err := d.bus.GetConfig(ctx)
	if err != nil {
		return err
	}
	if d.cfg, err = protocol.DecodeConfig("the configuration of run "+own.Run, document); err != nil {
		return err
	}
	d.dir = d.state // checkpoints are fetched to there
	return d.run(ctx)
}

// dispatcher is a service with all that it is wired to.
type dispatcher struct {
	cfg                      protocol.Config
	plan                     dispatch.Plan
	listen, dir, state, name string
	bus                      *protocol.Bus // nil: none
	log                      hclog.Logger
	monitor                  *monitor.Process
	service                  *dispatch.Service
	seen                     string // the newest checkpoint that was offered
}

func (d *dispatcher) run(ctx context.Context) error {
	policy, err := dispatchPolicy(d.cfg)
	if err != nil {
		return err
	}
	c := dispatch.Config{
		Run: d.cfg.Run, Policy: policy, Plan: d.plan, Dir: d.state, Now: time.Now, Seed: d.cfg.Seed, Log: d.log.Named("dispatch"),
		Stride: d.cfg.Actor.ContextStride,
	}
	var publisher *experiencePublisher
	if d.bus != nil {
		c.Publish = d.bus.PublishAlarm
		if publisher, err = newExperiencePublisher(d.bus, d.name, d.log); err != nil {
			return err
		}
		c.Record, c.Name = publisher.offer, publisher.name
	} else if d.plan.Experience.Publish {
		return fmt.Errorf("%w: the plan publishes experience, for which --nats must say where the bus is", protocol.ErrConfig)
	}
	if err := os.MkdirAll(d.state, 0o755); err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	unlock, err := lockRun(d.state, "dispatch.lock")
	if err != nil {
		return err
	}
	defer unlock()
	if d.service, err = dispatch.New(ctx, c); err != nil {
		return planError(err)
	}
	showDispatch(d.monitor, d.service)
	listener, err := net.Listen("tcp", d.listen)
	if err != nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	server := &http.Server{
		Handler: d.service.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: d.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	d.log.Info("dispatching", "run", d.cfg.Run, "url", "http://"+listener.Addr().String(), "stage", d.service.Status().Stage, "state", d.state)

	deciding, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, side := errgroup.WithContext(ctx)
	group.Go(func() error { return d.service.Run(deciding) })
	group.Go(func() error {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	group.Go(func() error { return ended(side, d.follow(side)) })
	if d.bus != nil {
		group.Go(func() error { return ended(side, d.bus.ServeDispatch(side, busCalls(d.service), busCode)) })
		group.Go(func() error { publisher.run(side); return nil })
		group.Go(func() error { return ended(side, d.bus.Heartbeat(side, dispatchStatus(d.service))) })
	}
	group.Go(func() error {
		<-side.Done()
		// What has been asked is answered before the loop ends.
		late, cancel := context.WithTimeout(context.Background(), drainTimeout/2)
		defer cancel()
		err := server.Shutdown(late)
		if err != nil {
			err = server.Close()
		}
		stop()
		return err
	})
	return group.Wait()
}

// dispatchPolicy is what a run's policy was trained on.
func dispatchPolicy(cfg protocol.Config) (dispatch.Policy, error) {
	if a := cfg.Learner.Algorithm; a != protocol.Dreamer {
		return dispatch.Policy{}, fmt.Errorf("%w: learner.algorithm is %s; a dispatcher takes policies of dreamer alone, whose world model says when they are out of their depth", protocol.ErrConfig, a)
	}
	w, err := newWorld(cfg)
	if err != nil {
		return dispatch.Policy{}, err
	}
	return dispatch.Policy{
		Model: worldModel(cfg, w), Env: w.env, Tasks: w.tasks, Blind: !cfg.Env.RL2Inputs,
	}, nil
}

// dispatchStatus is what a heartbeat tells of a service.
func dispatchStatus(service *dispatch.Service) func(*protocol.Status) {
	var rate protocol.Rate
	return func(h *protocol.Status) {
		s := service.Status()
		told := &protocol.DispatchStatus{
			Stage: string(s.Stage), Share: s.Share, Decisions: s.Decisions, DecisionsPerSecond: rate.Per(time.Now(), s.Decisions),
			Fallbacks: s.Decisions - s.Policy - s.Reference[dispatch.ReasonStage], Streams: s.Streams, HeldStreams: s.Held, AuditFailed: s.AuditFailed != "",
		}
		var holds []string
		for _, hold := range s.Holds {
			if hold.Stream == "" {
				holds = append(holds, string(hold.Guard))
			}
		}
		told.Holds = strings.Join(holds, ", ")
		for _, v := range s.Versions {
			if v.Acting {
				told.ParamVersion = v.Version
			}
		}
		h.Dispatch = told
	}
}

// busCalls are a service's, as the bus has them.
func busCalls(s *dispatch.Service) (calls []protocol.DispatchCall) {
	for name, call := range s.Calls() {
		calls = append(calls, protocol.DispatchCall{Name: name, Command: call.Command, Do: call.Do})
	}
	return calls
}

func busCode(err error) (code, text string) {
	number, text := dispatch.Code(err)
	return strconv.Itoa(number), text
}

// follow offers the service each newer checkpoint, until ctx ends.
func (d *dispatcher) follow(ctx context.Context) error {
	d.monitor.Check(checkParameters, func() error {
		if len(d.service.Status().Versions) == 0 {
			return errors.New("there is no checkpoint yet")
		}
		return nil
	})
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		if err := d.look(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("the newest parameters were not taken", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *dispatcher) look(ctx context.Context) error {
	if d.bus != nil {
		if err := fetchCheckpoint(ctx, d.bus, d.dir, d.log); err != nil {
			return err
		}
	}
	folder := filepath.Join(d.dir, checkpointDir)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil // none yet
	}
	if err != nil {
		return err
	}
	newest := entries[len(entries)-1].Name() // by number
	if newest == d.seen {
		return nil
	}
	ckpt, err := learner.Latest(folder, d.log)
	if err != nil {
		return err
	}
	var file *model.File
	if file, err = checkpointFile(ckpt); err != nil {
		return err
	}
	d.seen = newest
	return d.service.Offer(ctx, uint64(ckpt.Manifest.Updates), file)
}

// checkpointFile reads all tensors of a checkpoint.
func checkpointFile(ckpt *learner.Checkpoint) (*model.File, error) {
	r, err := ckpt.File(learner.StateFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return model.ReadFile(r)
}
