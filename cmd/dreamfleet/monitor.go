package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/actor"
	"github.com/dreamfleet/dreamfleet/dispatch"
	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/replay"
)

// This file turns what the roles count into metrics, and what they need into checks.

// Names of the checks of /readyz.
const (
	checkBus           = "bus"
	checkConfiguration = "configuration"
	checkStore         = "store"
	checkCheckpoint    = "checkpoint"
	checkServer        = "server"
)

// monitorFlag says where a role serves metrics and health.
type monitorFlag struct{ listen string }

func (f *monitorFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.listen, "monitor", os.Getenv(monitorVariable), "`address` to serve /metrics, /healthz, /readyz and pprof at, such as 127.0.0.1:9464 (default: DREAMFLEET_MONITOR, or else nowhere)")
}

// start begins to watch the role of a process, until Close.
func (f *monitorFlag) start(ctx context.Context, role, run string, log hclog.Logger, checks ...string) (*monitor.Process, error) {
	if f.listen != "" {
		if err := monitor.CheckListen(f.listen); err != nil {
			return nil, fmt.Errorf("%w: --monitor: %w", protocol.ErrConfig, err)
		}
	}
	p, err := monitor.Start(ctx, monitor.ProcessConfig{
		Role: role, Run: run, Version: programVersion(), Listen: f.listen, Checks: checks, Now: time.Now, Log: log.Named("monitor"),
	})
	if err == nil && f.listen != "" {
		log.Info("metrics and health are served", "url", "http://"+p.Address())
	}
	return p, err
}

// showBus adds a connection.
func showBus(p *monitor.Process, role protocol.Role, bus *protocol.Bus) {
	p.Source("bus "+string(role), func(e *monitor.Emitter) { emitBus(e, string(role), bus.Connected(), bus.Stats()) })
}

// checkBuses passes while all connections stand.
func checkBuses(p *monitor.Process, buses ...*protocol.Bus) {
	p.Check(checkBus, func() error {
		for _, bus := range buses {
			if !bus.Connected() {
				return protocol.ErrDisconnected
			}
		}
		return nil
	})
}

func emitBus(e *monitor.Emitter, role string, connected bool, s protocol.Stats) {
	e.Flag("dreamfleet_bus_connected", connected, role)
	for _, c := range []struct {
		name  string
		value uint64
	}{
		{"disconnects_total", s.Disconnects},
		{"reconnects_total", s.Reconnects},
		{"denied_total", s.Denied},
		{"errors_total", s.AsyncErrors + s.SlowConsumers},
		{"heartbeats_lost_total", s.HeartbeatLost},
		{"published_chunks_total", s.Published},
		{"publish_failures_total", s.PublishFailed},
		{"consumed_chunks_total", s.Consumed},
		{"redelivered_chunks_total", s.Redelivered},
		{"param_versions_sent_total", s.ParamsSent},
		{"param_sends_failed_total", s.ParamSendFailed},
		{"param_versions_received_total", s.ParamsReceived},
		{"param_frames_fetched_total", s.ParamsFetched},
		{"batches_total", s.Samples},
		{"batch_waits_total", s.SampleWaits},
	} {
		e.Value("dreamfleet_bus_"+c.name, float64(c.value), role)
	}
	for _, reason := range protocol.Reasons() { // each from the start, so that the first one is a rise
		e.Value("dreamfleet_bus_dead_lettered_messages_total", float64(s.DeadLettered[reason]), role, reason)
		e.Value("dreamfleet_bus_refused_messages_total", float64(s.Refused[reason]), role, reason)
	}
}

// showServer adds the server of this process, and the check that it works.
func showServer(p *monitor.Process, server *protocol.Server, log hclog.Logger) {
	p.Check(checkServer, server.Healthy)
	p.Source("server", func(e *monitor.Emitter) {
		s, err := server.Stats()
		if err != nil {
			log.Warn("numbers of the NATS server are missing", "error", err)
			return
		}
		e.Value("dreamfleet_nats_connections", float64(s.Connections))
		e.Value("dreamfleet_nats_subscriptions", float64(s.Subscriptions))
		e.Value("dreamfleet_nats_received_messages_total", float64(s.ReceivedMessages))
		e.Value("dreamfleet_nats_received_bytes_total", float64(s.ReceivedBytes))
		e.Value("dreamfleet_nats_sent_messages_total", float64(s.SentMessages))
		e.Value("dreamfleet_nats_sent_bytes_total", float64(s.SentBytes))
		e.Value("dreamfleet_nats_slow_consumers_total", float64(s.SlowConsumers))
		e.Value("dreamfleet_nats_storage_bytes", float64(s.StorageBytes))
		e.Value("dreamfleet_nats_storage_limit_bytes", float64(s.StorageLimit))
		for _, stream := range s.Streams {
			e.Value("dreamfleet_nats_stream_bytes", float64(stream.Bytes), stream.Name)
			e.Value("dreamfleet_nats_stream_messages", float64(stream.Messages), stream.Name)
			if stream.Limit > 0 {
				e.Value("dreamfleet_nats_stream_limit_bytes", float64(stream.Limit), stream.Name)
			}
		}
		e.Value("dreamfleet_nats_consumer_lag_messages", float64(s.TrajectoryLag), protocol.TrajectoryStream)
		e.Value("dreamfleet_nats_consumer_unacknowledged_messages", float64(s.TrajectoryInFlight), protocol.TrajectoryStream)
	})
}

// showActors adds the actors of this process.
func showActors(p *monitor.Process, actors []*actor.Actor) {
	p.Source("actors", func(e *monitor.Emitter) {
		var all actor.Stats
		held := 0
		for i, a := range actors {
			s := a.Stats()
			all.Steps += s.Steps
			all.Episodes += s.Episodes
			all.Chunks += s.Chunks
			all.Published += s.Published
			all.Failed += s.Failed
			all.Dropped += s.Dropped + s.Refused
			all.ParamsRejected += s.ParamsRejected
			all.SpoolChunks += s.SpoolChunks
			all.SpoolBytes += s.SpoolBytes
			if i == 0 || s.ParamVersion < all.ParamVersion {
				all.ParamVersion = s.ParamVersion
			}
			if s.Held != "" {
				held++
			}
		}
		e.Value("dreamfleet_actor_actors", float64(len(actors)))
		e.Value("dreamfleet_actor_held", float64(held))
		e.Value("dreamfleet_actor_steps_total", float64(all.Steps))
		e.Value("dreamfleet_actor_episodes_total", float64(all.Episodes))
		e.Value("dreamfleet_actor_chunks_total", float64(all.Chunks))
		e.Value("dreamfleet_actor_published_chunks_total", float64(all.Published))
		e.Value("dreamfleet_actor_send_failures_total", float64(all.Failed))
		e.Value("dreamfleet_actor_dropped_chunks_total", float64(all.Dropped))
		e.Value("dreamfleet_actor_spool_chunks", float64(all.SpoolChunks))
		e.Value("dreamfleet_actor_spool_bytes", float64(all.SpoolBytes))
		e.Value("dreamfleet_actor_param_version", float64(all.ParamVersion))
		e.Value("dreamfleet_actor_params_rejected_total", float64(all.ParamsRejected))
	})
}

// showReplay adds the store of this process, and the check that it is open.
func showReplay(p *monitor.Process, store *replay.Store, capacity int64) {
	p.Check(checkStore, store.Err)
	p.Source("replay", func(e *monitor.Emitter) {
		s := store.Stats()
		e.Value("dreamfleet_replay_inserted_steps_total", float64(s.Inserted))
		e.Value("dreamfleet_replay_sampled_steps_total", float64(s.Sampled))
		e.Value("dreamfleet_replay_steps", float64(s.Steps))
		e.Value("dreamfleet_replay_capacity_steps", float64(capacity))
		e.Value("dreamfleet_replay_reservoir_steps", float64(s.ReservoirSteps))
		e.Value("dreamfleet_replay_chunks", float64(s.Chunks))
		e.Value("dreamfleet_replay_streams", float64(s.Streams))
		e.Value("dreamfleet_replay_starts", float64(s.Starts))
		e.Value("dreamfleet_replay_segments", float64(s.Segments))
		e.Value("dreamfleet_replay_bytes", float64(s.Bytes))
		e.Value("dreamfleet_replay_step_bytes", s.BytesPerStep)
		e.Value("dreamfleet_replay_index_bytes", float64(s.IndexBytes))
		e.Value("dreamfleet_replay_incoming_steps", float64(s.Incoming))
		e.Value("dreamfleet_replay_limiter_balance_steps", s.Balance)
		e.Flag("dreamfleet_replay_limiter_hold", s.Hold)
		e.Value("dreamfleet_replay_evicted_chunks_total", float64(s.Evicted))
		e.Value("dreamfleet_replay_duplicate_chunks_total", float64(s.Duplicates))
		e.Value("dreamfleet_replay_moved_chunks_total", float64(s.Moved))
		e.Value("dreamfleet_replay_refreshed_contexts_total", float64(s.Refreshed))
		e.Value("dreamfleet_replay_refresh_misses_total", float64(s.RefreshMissed))
		e.Value("dreamfleet_replay_damaged_bytes", float64(s.TornBytes+s.DamagedBytes))
	})
}

// showLearner adds the loop of this process, what it records, and the check that it can write
// checkpoints.
func showLearner(p *monitor.Process, loop *learner.Loop, w *watch) {
	p.Check(checkCheckpoint, func() error {
		if loop.Checkpointed() == 0 {
			return errors.New("none is written yet")
		}
		return nil
	})
	p.Source("learner", func(e *monitor.Emitter) {
		e.Value("dreamfleet_learner_updates_total", float64(loop.Updates()))
		e.Value("dreamfleet_learner_checkpoint_timestamp_seconds", float64(loop.Checkpointed())/1000)
		counts, sum := loop.AllStaleness()
		e.Distribution("dreamfleet_learner_staleness_versions", float64(sum), ageBounds(len(counts)), counts)
		monitor.Recorded(w.recorded())(e)
	})
}

// ageBounds are the largest ages of the loop's counts: 0, 1, 3, 7 and so on, since what matters of an age is
// its order of magnitude. The last count has all above.
func ageBounds(counts int) []float64 {
	bounds := make([]float64, counts-1)
	for i := range bounds {
		bounds[i] = float64(uint64(1)<<i - 1)
	}
	return bounds
}

// recorded is a copy of the values last recorded, the last evaluation's included.
func (w *watch) recorded() map[string]float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	values := make(map[string]float64, len(w.values)+len(w.scored))
	maps.Copy(values, w.scored)
	maps.Copy(values, w.values)
	return values
}

// showDispatch adds the dispatcher of this process.
func showDispatch(p *monitor.Process, service *dispatch.Service) {
	bounds := make([]float64, len(dispatch.LatencyBounds))
	for i, b := range dispatch.LatencyBounds {
		bounds[i] = b.Seconds()
	}
	p.Source("dispatch", func(e *monitor.Emitter) {
		s := service.Status()
		e.Value("dreamfleet_dispatch_decisions_total", float64(s.Policy), "policy", "")
		held := map[dispatch.Reason]bool{}
		for _, h := range s.Holds {
			if h.Stream == "" {
				held[h.Guard] = true
			}
		}
		for _, r := range dispatch.Reasons {
			e.Value("dreamfleet_dispatch_decisions_total", float64(s.Reference[r]), "reference", string(r))
			if r != dispatch.ReasonStage {
				e.Value("dreamfleet_dispatch_holds_total", float64(s.HoldsBegun[r]), string(r))
				e.Flag("dreamfleet_dispatch_held", held[r], string(r))
			}
		}
		version := 0.0
		for _, v := range s.Versions {
			if v.Acting {
				version = float64(v.Version)
			}
		}
		e.Distribution("dreamfleet_dispatch_seconds", s.Waited.Seconds(), bounds, s.Latency[:])
		e.Value("dreamfleet_dispatch_held_streams", float64(s.Held))
		e.Value("dreamfleet_dispatch_share_ratio", s.Share)
		e.Value("dreamfleet_dispatch_streams", float64(s.Streams))
		e.Value("dreamfleet_dispatch_forgotten_streams_total", float64(s.Forgotten))
		e.Value("dreamfleet_dispatch_unfinished_jobs", float64(s.Unfinished))
		e.Value("dreamfleet_dispatch_completed_jobs_total", float64(s.Completed))
		e.Value("dreamfleet_dispatch_agreement_ratio", s.Agreement)
		e.Value("dreamfleet_dispatch_param_version", version)
		renewed := 0.0
		if !s.Renewed.IsZero() {
			renewed = float64(s.Renewed.UnixMilli()) / 1e3
		}
		e.Value("dreamfleet_dispatch_param_timestamp_seconds", renewed)
		e.Value("dreamfleet_dispatch_param_swaps_total", float64(s.Swaps))
		e.Value("dreamfleet_dispatch_params_refused_total", float64(s.Refused))
		e.Value("dreamfleet_dispatch_replayed_blocks", float64(s.Blocks))
		if s.ReferenceCost > 0 {
			e.Value("dreamfleet_dispatch_replayed_cost_ratio", s.PolicyCost/s.ReferenceCost)
		}
		e.Value("dreamfleet_dispatch_skipped_blocks_total", float64(s.Skipped))
		e.Value("dreamfleet_dispatch_events_lost_total", float64(s.EventsLost))
		e.Flag("dreamfleet_dispatch_audit_failed", s.AuditFailed != "")
	})
}
