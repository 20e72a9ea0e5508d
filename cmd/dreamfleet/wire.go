package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/env/loadbalance"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
	"github.com/dreamfleet/dreamfleet/view"
	"github.com/dreamfleet/dreamfleet/watchdog"
)

// This file turns the sections of a run's configuration into the settings of the packages.

// Subfolders of a run folder.
const (
	checkpointDir = "checkpoints"
	replayDir     = "replay"
	natsDir       = "nats"
)

// world is the environment of a run: its settings, the tasks that are trained on, and the one that
// is evaluated on.
type world struct {
	env   loadbalance.Config
	tasks *loadbalance.Tasks
	spec  env.Spec // with the RL² inputs

	heldBack *loadbalance.Trace // part of a trace file that is evaluated on and not trained on, or nil
	note     string             // says so
}

func newWorld(cfg protocol.Config) (*world, error) {
	e, t := cfg.Env, cfg.Env.Tasks
	rates := e.ServiceRates
	if len(rates) == 0 {
		rates = loadbalance.EvenRates(e.Servers)
	}
	span := func(r [2]float64) loadbalance.Range { return loadbalance.Range{Lo: r[0], Hi: r[1]} }
	tasks := &loadbalance.Tasks{
		Base: loadbalance.Task{
			Label: cmp.Or(e.Name, e.Workload.Kind), Interval: e.JobInterval, Shape: e.JobSizeShape, Scale: e.JobSizeScale, Rates: rates,
		},
		Interval: span(t.JobInterval), Shape: span(t.JobSizeShape), Scale: span(t.JobSizeScale),
		Servers: t.Servers, RateScale: span(t.RateScale), Permute: e.PermuteRates, KeepLoad: t.KeepLoad, Load: span(t.Load),
		IntervalDrift: span(t.IntervalDrift), SizeDrift: span(t.SizeDrift),
		Slow: t.Slow, Fail: t.Fail, Join: t.Join, SlowFactor: span(t.SlowFactor), Outage: span(t.Outage),
		Jobs: e.EpisodeJobs,
	}
	var held *loadbalance.Trace
	var note string
	if w := e.Workload; w.Kind == loadbalance.Poisson {
		if w.Load > 0 {
			var err error
			if tasks.Base.Interval, err = loadbalance.IntervalOf(w.Load, e.JobSizeShape, e.JobSizeScale, rates); err != nil {
				return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
			}
		}
	} else {
		workload, err := newWorkload(loadbalance.WorkloadConfig{
			Kind: w.Kind, Interval: e.JobInterval, Shape: e.JobSizeShape, Scale: e.JobSizeScale,
			Load: w.Load, Burst: w.Burst, Period: w.Period,
			File: w.File, Arrival: w.Arrival, Size: w.Size, Filter: w.Filter, Unit: w.Unit,
		}, rates)
		if err != nil {
			return nil, err
		}
		tasks.Base.Workload = workload
		if trace, ok := workload.(*loadbalance.Trace); ok {
			var train *loadbalance.Trace
			train, held = trace.Split(1 - cfg.Evaluate.Share)
			if cfg.Evaluate.Share == 1 {
				train = held // for its shape: trials refuses to train on it
			}
			tasks.Base.Workload = train
			if train.Jobs() < e.EpisodeJobs {
				return nil, fmt.Errorf("%w: env.episode_jobs is %d, but the part of %s that evaluate.share (%g) leaves to training is %d jobs",
					protocol.ErrConfig, e.EpisodeJobs, w.File, cfg.Evaluate.Share, train.Jobs())
			}
			note = fmt.Sprintf("%s: trains on its first %d jobs, is evaluated on the last %d", w.File, train.Jobs(), held.Jobs())
		}
	}
	if err := tasks.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	w := &world{tasks: tasks, heldBack: held, note: note, env: loadbalance.Config{
		Servers: e.Servers, Jobs: e.EpisodeJobs, Reward: e.Reward, RewardScale: e.RewardScale, TailStart: e.TailStart,
		LoadScales: e.LoadScales, ObserveMask: e.ObserveMask || tasks.Masks(), ObserveRates: e.ObserveRates, ObserveMeasured: e.ObserveMeasured, HideRates: e.HideRates,
	}}
	return w, w.measure()
}

// measure finds what an agent is shown.
func (w *world) measure() error {
	probe, err := loadbalance.New(w.env)
	if err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	if err := probe.Reset(&w.tasks.Base, 0); err != nil {
		return err
	}
	w.spec = probe.Spec()
	w.spec.Obs += env.Extra
	return nil
}

// newWorkload builds a workload. It is the command line or the configuration that is wrong where it
// cannot be built, unless that is the content of a file.
func newWorkload(cfg loadbalance.WorkloadConfig, rates []float64) (loadbalance.Workload, error) {
	w, err := loadbalance.NewWorkload(cfg, rates)
	if err != nil && (cfg.File == "" || cfg.Check() != nil) {
		err = fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	return w, err
}

// trials makes the streams of one actor, and returns the environment of the first.
func (w *world) trials(cfg protocol.Config, seed uint64) (trials []*env.Trial, first *loadbalance.Env, err error) {
	if w.heldBack != nil && cfg.Evaluate.Share == 1 {
		return nil, nil, fmt.Errorf("%w: evaluate.share is 1, which leaves nothing of %s to train on", protocol.ErrConfig, cfg.Env.Workload.File)
	}
	trials = make([]*env.Trial, cfg.Actor.Envs)
	for i := range trials {
		e, err := loadbalance.New(w.env)
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			first = e
		}
		if trials[i], err = env.NewTrial(e, w.tasks, cfg.Env.EpisodesPerTrial, seed+uint64(i)); err != nil {
			return nil, nil, err
		}
		trials[i].Blind = !cfg.Env.RL2Inputs
	}
	return trials, first, nil
}

func newLoop(cfg protocol.Config, dir string, deps learner.Deps) (*learner.Loop, error) {
	l := cfg.Learner
	deps.Checkpoints = filepath.Join(dir, checkpointDir)
	deps.Now = time.Now
	return learner.New(learner.Config{
		Lockstep: cfg.Lockstep, InPlace: onPolicy(cfg), PublishEvery: l.PublishEvery, CheckpointEvery: l.CheckpointEvery,
		LogEvery: cfg.Log.Every, KeepCheckpoints: l.KeepCheckpoints, MaxSkipped: l.MaxSkipped,
		ConfigDigest: configDigest(cfg),
	}, deps)
}

// configDigest stands for the settings that decide whether saved parameters fit.
func configDigest(cfg protocol.Config) string {
	settings := fmt.Appendf(nil, "%+v", cfg.Model)
	if onPolicy(cfg) {
		settings = append(settings, cfg.Learner.Algorithm...)
	}
	sum := sha256.Sum256(settings)
	return hex.EncodeToString(sum[:])
}

// newActor makes actor number i of a process. Its name is new in each life, unless a lockstep run
// is to go on with it. Its chunks go to the publisher.
func newActor(cfg protocol.Config, w *world, bus *protocol.Bus, publisher actor.Publisher, i int, name string, dog *watchdog.Watchdog, log hclog.Logger) (*actor.Actor, error) {
	seed := actorSeed(cfg.Seed, name, i)
	trials, first, err := w.trials(cfg, seed)
	if err != nil {
		return nil, err
	}
	policy, err := newPolicy(cfg, w, len(trials), seed, false)
	if err != nil {
		return nil, err
	}
	camera, err := view.NewCamera(view.CameraConfig{
		Run: cfg.Run, Actor: name, Env: first, Scale: cfg.Env.LoadScales[0],
		Probs: policy.Probs, Task: func() string { return trials[0].Task().Name() },
		Send: func(clip *view.Clip) { publishView(bus, name, clip, log) }, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	settings := actor.Config{
		Run: cfg.Run, Name: name, ChunkLength: cfg.Actor.ChunkLength, Stride: cfg.Actor.ContextStride,
		Spool: cfg.Actor.Spool, Watchdog: dog, Viewer: camera, OnPolicy: onPolicy(cfg),
	}
	if settings.OnPolicy {
		settings.Stride = settings.ChunkLength // the context at the start is all that is asked for
	}
	return actor.New(settings, trials, policy, publisher, log)
}

// publishView sends a clip to whoever looks. One that is lost is followed by another.
func publishView(bus *protocol.Bus, actor string, clip *view.Clip, log hclog.Logger) {
	data, err := json.Marshal(clip)
	if err == nil {
		err = bus.PublishView(actor, data)
	}
	if err != nil {
		log.Debug("view was not sent", "actor", actor, "error", err)
	}
}

// actorSeed gives every actor, and every life of one, random streams of its own.
func actorSeed(seed uint64, name string, i int) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", seed, name, i))
	var s uint64
	for _, b := range sum[:6] { // room for the environments' numbers above
		s = s<<8 | uint64(b)
	}
	return s << 12
}

// openReplay opens the store of a run. state is the folder of the saved state to go on from.
func openReplay(cfg protocol.Config, dir, state string, log hclog.Logger) (*replay.Store, error) {
	return replay.Open(replayConfig(cfg, dir, state), log)
}

func replayConfig(cfg protocol.Config, dir, state string) replay.Config {
	l, r := cfg.Learner, cfg.Replay
	reservoir := 0
	if r.Sampler.Reservoir > 0 {
		reservoir = int(r.Capacity / 2)
	}
	return replay.Config{
		Dir: filepath.Join(dir, replayDir), State: state, Run: cfg.Run,
		Capacity: int(r.Capacity), Reservoir: reservoir,
		Mix: replay.Mix{
			Uniform: r.Sampler.Uniform, Recency: r.Sampler.Recency, Reservoir: r.Sampler.Reservoir, HalfLife: r.HalfLife,
		},
		Limiter: replay.LimiterConfig{
			Ratio: l.TrainRatio, MinSteps: int(l.Prefill),
			Budget: int(r.Slack * float64(l.BatchSize*l.BatchLength)),
		},
		Batch: l.BatchSize, Length: l.BatchLength, Seed: cfg.Seed, Exact: cfg.Lockstep,
	}
}

// shardConfig is that of one of the replays among which a run is divided, from 0: each has its part of
// the capacity, in a folder of its own, and draws with random numbers of its own.
func shardConfig(cfg protocol.Config, dir string, shard int) replay.Config {
	of := replayConfig(cfg, dir, "")
	if n := cfg.Replay.Shards; n > 1 {
		of.Dir = filepath.Join(dir, fmt.Sprintf("%s-%d", replayDir, shard))
		of.Capacity, of.Reservoir = of.Capacity/n, of.Reservoir/n
		of.Limiter.Shards, of.Seed = n, of.Seed+uint64(shard)<<32
	}
	return of
}

// processStarted is when this process did, for its heartbeats.
var processStarted = time.Now()

// busConfig is the connection of a role. server may be nil: then the bus is at bus.url.
func busConfig(cfg protocol.Config, server *protocol.Server, role protocol.Role, name string) protocol.BusConfig {
	return protocol.BusConfig{
		Server: server, URL: cfg.Bus.URL, Credentials: cfg.Bus.Creds, CA: cfg.Bus.CA,
		Run: cfg.Run, Role: role, Name: name, Version: programVersion(), Started: processStarted, TrajBytes: cfg.Bus.StoreBytes, TrajAge: cfg.Bus.MaxAge,
		Collect: onPolicy(cfg),
	}
}

// waitingFor says at which server elsewhere the roles meet, and who says so: nothing happens until
// it answers.
func waitingFor(cfg protocol.Config, lookupEnv func(string) (string, bool)) string {
	addresses := strings.Split(cfg.Bus.URL, ",")
	for i, a := range addresses {
		if u, err := url.Parse(strings.TrimSpace(a)); err == nil {
			addresses[i] = u.Redacted()
		}
	}
	text := "waiting for NATS at " + strings.Join(addresses, ", ")
	if fromEnvironment(cfg.Bus.URL, urlVariable, lookupEnv) {
		text += ", which " + urlVariable + " names"
	}
	return text
}

// startServer embeds a NATS server, unless the configuration names one elsewhere.
func startServer(ctx context.Context, cfg protocol.Config, dir string, log hclog.Logger) (*protocol.Server, error) {
	if cfg.Bus.URL != "" {
		return nil, nil
	}
	return protocol.StartServer(protocol.ServerConfig{
		StoreDir: filepath.Join(dir, natsDir), Listen: cfg.Bus.Listen, Keys: cfg.Bus.Keys, Stop: ctx.Done(),
	}, log.Named("nats"))
}
