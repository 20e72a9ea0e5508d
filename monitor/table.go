package monitor

import "strings"

// Kind is that of a metric in Prometheus's terms.
type Kind string

// The kinds.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Metric is one name on /metrics and, where the same is written there, in metrics.jsonl and
// TensorBoard.
type Metric struct {
	Name   string
	Kind   Kind
	Unit   string   // of its values
	Labels []string // beside run; each has few values, known beforehand
	Help   string

	// Series is the name in metrics.jsonl, empty where there is none. One that ends in * stands for
	// all names that begin so, and the last label has what follows.
	Series string
	// Recorded: the value is the one last written under Series.
	Recorded bool
}

// Table is all that any role exports of itself; docs/metrics.md is made of it.
var Table = []Metric{
	{Name: "dreamfleet_build_info", Kind: Gauge, Unit: "1", Labels: []string{"version", "role"}, Help: "Always 1: the version of this process, and its role."},
	{Name: "dreamfleet_ready", Kind: Gauge, Unit: "0 or 1", Labels: []string{"check"}, Help: "Whether a check of /readyz passes."},

	{Name: "dreamfleet_loop_seconds", Kind: Histogram, Unit: "seconds", Labels: []string{"role", "loop", "state", "step"}, Help: "How long the steps (state busy) and waits (state waiting) of a loop took that have ended."},
	{Name: "dreamfleet_loop_saturation_ratio", Kind: Gauge, Unit: "0 to 1", Labels: []string{"role", "loop"}, Help: "Share of the last ten seconds in which the loop was busy and did not wait. The loop at 1 is what bounds the others."},
	{Name: "dreamfleet_loop_stalled", Kind: Gauge, Unit: "loops", Labels: []string{"role", "loop"}, Help: "Loops in one step for more than a minute; /healthz fails meanwhile."},

	{Name: "dreamfleet_bus_connected", Kind: Gauge, Unit: "0 or 1", Labels: []string{"role"}, Help: "Whether the connection to the bus stands."},
	{Name: "dreamfleet_bus_disconnects_total", Kind: Counter, Unit: "losses", Labels: []string{"role"}, Help: "Losses of the connection.", Series: "bus/disconnects"},
	{Name: "dreamfleet_bus_reconnects_total", Kind: Counter, Unit: "times", Labels: []string{"role"}, Help: "Times that the connection came back."},
	{Name: "dreamfleet_bus_denied_total", Kind: Counter, Unit: "denials", Labels: []string{"role"}, Help: "Subjects that the server denied the role.", Series: "bus/denied"},
	{Name: "dreamfleet_bus_errors_total", Kind: Counter, Unit: "errors", Labels: []string{"role"}, Help: "Errors that no call returned, messages dropped for a slow subscriber among them.", Series: "bus/errors"},
	{Name: "dreamfleet_bus_heartbeats_lost_total", Kind: Counter, Unit: "heartbeats", Labels: []string{"role"}, Help: "Heartbeats that could not be sent."},
	{Name: "dreamfleet_bus_published_chunks_total", Kind: Counter, Unit: "chunks", Labels: []string{"role"}, Help: "Chunks that the trajectory stream has stored, repetitions included."},
	{Name: "dreamfleet_bus_publish_failures_total", Kind: Counter, Unit: "attempts", Labels: []string{"role"}, Help: "Attempts at publishing a chunk that failed; it is sent again.", Series: "bus/publish_failed"},
	{Name: "dreamfleet_bus_consumed_chunks_total", Kind: Counter, Unit: "chunks", Labels: []string{"role"}, Help: "Chunks taken from the trajectory stream."},
	{Name: "dreamfleet_bus_redelivered_chunks_total", Kind: Counter, Unit: "chunks", Labels: []string{"role"}, Help: "Of those, the ones that came again.", Series: "bus/redelivered"},
	{Name: "dreamfleet_bus_dead_lettered_messages_total", Kind: Counter, Unit: "messages", Labels: []string{"role", "reason"}, Help: "Messages of the trajectory stream that could not be used and are kept in DEAD.", Series: "bus/dead_lettered_*"},
	{Name: "dreamfleet_bus_refused_messages_total", Kind: Counter, Unit: "messages", Labels: []string{"role", "reason"}, Help: "Other messages that could not be decoded.", Series: "bus/refused_*"},
	{Name: "dreamfleet_bus_param_versions_sent_total", Kind: Counter, Unit: "versions", Labels: []string{"role"}, Help: "Parameter versions broadcast."},
	{Name: "dreamfleet_bus_param_sends_failed_total", Kind: Counter, Unit: "versions", Labels: []string{"role"}, Help: "Parameter versions whose broadcast broke off; subscribers fetch them."},
	{Name: "dreamfleet_bus_param_versions_received_total", Kind: Counter, Unit: "versions", Labels: []string{"role"}, Help: "Parameter versions received and verified."},
	{Name: "dreamfleet_bus_param_frames_fetched_total", Kind: Counter, Unit: "frames", Labels: []string{"role"}, Help: "Frames of parameters asked for singly, after a loss or a late start."},
	{Name: "dreamfleet_bus_batches_total", Kind: Counter, Unit: "batches", Labels: []string{"role"}, Help: "Batches served to, or received by, a learner elsewhere."},
	{Name: "dreamfleet_bus_batch_waits_total", Kind: Counter, Unit: "requests", Labels: []string{"role"}, Help: "Requests for a batch that were answered, or met, with not yet."},

	{Name: "dreamfleet_nats_connections", Kind: Gauge, Unit: "connections", Help: "Clients of the server in this process."},
	{Name: "dreamfleet_nats_subscriptions", Kind: Gauge, Unit: "subscriptions", Help: "Subscriptions of its clients."},
	{Name: "dreamfleet_nats_received_messages_total", Kind: Counter, Unit: "messages", Help: "Messages that clients sent to the server."},
	{Name: "dreamfleet_nats_received_bytes_total", Kind: Counter, Unit: "bytes", Help: "Bytes of those."},
	{Name: "dreamfleet_nats_sent_messages_total", Kind: Counter, Unit: "messages", Help: "Messages that the server sent to clients."},
	{Name: "dreamfleet_nats_sent_bytes_total", Kind: Counter, Unit: "bytes", Help: "Bytes of those."},
	{Name: "dreamfleet_nats_slow_consumers_total", Kind: Counter, Unit: "clients", Help: "Clients cut off since they did not keep up."},
	{Name: "dreamfleet_nats_storage_bytes", Kind: Gauge, Unit: "bytes", Help: "Disk that all streams take."},
	{Name: "dreamfleet_nats_storage_limit_bytes", Kind: Gauge, Unit: "bytes", Help: "Disk that they may take together."},
	{Name: "dreamfleet_nats_stream_bytes", Kind: Gauge, Unit: "bytes", Labels: []string{"stream"}, Help: "Bytes in a stream: TRAJ and DEAD, of the buckets KV_cfg and KV_hb, of the checkpoints OBJ_CKPT."},
	{Name: "dreamfleet_nats_stream_limit_bytes", Kind: Gauge, Unit: "bytes", Labels: []string{"stream"}, Help: "Bytes that the stream may have."},
	{Name: "dreamfleet_nats_stream_messages", Kind: Gauge, Unit: "messages", Labels: []string{"stream"}, Help: "Messages in a stream."},
	{Name: "dreamfleet_nats_consumer_lag_messages", Kind: Gauge, Unit: "messages", Labels: []string{"stream"}, Help: "Messages that the replays of all runs have yet to be given."},
	{Name: "dreamfleet_nats_consumer_unacknowledged_messages", Kind: Gauge, Unit: "messages", Labels: []string{"stream"}, Help: "Messages given to a replay and not acknowledged yet."},

	{Name: "dreamfleet_actor_actors", Kind: Gauge, Unit: "actors", Help: "Actors of this process; what follows is all of theirs together."},
	{Name: "dreamfleet_actor_held", Kind: Gauge, Unit: "actors", Help: "Of those, the ones that the replay holds."},
	{Name: "dreamfleet_actor_steps_total", Kind: Counter, Unit: "steps", Help: "Environment steps made."},
	{Name: "dreamfleet_actor_episodes_total", Kind: Counter, Unit: "episodes", Help: "Episodes that ended."},
	{Name: "dreamfleet_actor_chunks_total", Kind: Counter, Unit: "chunks", Help: "Chunks completed."},
	{Name: "dreamfleet_actor_published_chunks_total", Kind: Counter, Unit: "chunks", Help: "Chunks that the bus has stored."},
	{Name: "dreamfleet_actor_send_failures_total", Kind: Counter, Unit: "attempts", Help: "Attempts at sending that are repeated."},
	{Name: "dreamfleet_actor_dropped_chunks_total", Kind: Counter, Unit: "chunks", Help: "Chunks lost: dropped for want of room in the spool, or since the bus can not carry them.", Series: "actor/chunks_dropped"},
	{Name: "dreamfleet_actor_spool_chunks", Kind: Gauge, Unit: "chunks", Help: "Chunks in the spool."},
	{Name: "dreamfleet_actor_spool_bytes", Kind: Gauge, Unit: "bytes", Help: "Bytes of those."},
	{Name: "dreamfleet_actor_param_version", Kind: Gauge, Unit: "version", Help: "Oldest parameter version acting; 0: uniformly at random."},
	{Name: "dreamfleet_actor_params_rejected_total", Kind: Counter, Unit: "versions", Help: "Parameter versions that the policy refused.", Series: "actor/params_rejected"},

	{Name: "dreamfleet_replay_inserted_steps_total", Kind: Counter, Unit: "steps", Help: "Environment steps inserted, in the whole run.", Series: "env/steps"},
	{Name: "dreamfleet_replay_sampled_steps_total", Kind: Counter, Unit: "steps", Help: "Steps sampled, in the whole run."},
	{Name: "dreamfleet_replay_steps", Kind: Gauge, Unit: "steps", Help: "Steps stored.", Series: "replay/steps"},
	{Name: "dreamfleet_replay_capacity_steps", Kind: Gauge, Unit: "steps", Help: "Steps that are kept at most."},
	{Name: "dreamfleet_replay_reservoir_steps", Kind: Gauge, Unit: "steps", Help: "Of those stored, the ones in the reservoir."},
	{Name: "dreamfleet_replay_chunks", Kind: Gauge, Unit: "chunks", Help: "Chunks stored."},
	{Name: "dreamfleet_replay_streams", Kind: Gauge, Unit: "streams", Help: "Environments of actors, former ones included, of which chunks are stored."},
	{Name: "dreamfleet_replay_starts", Kind: Gauge, Unit: "steps", Help: "Steps at which a sequence can start."},
	{Name: "dreamfleet_replay_segments", Kind: Gauge, Unit: "files", Help: "Files."},
	{Name: "dreamfleet_replay_bytes", Kind: Gauge, Unit: "bytes", Help: "Bytes of all files."},
	{Name: "dreamfleet_replay_step_bytes", Kind: Gauge, Unit: "bytes", Help: "Bytes on disk for each step stored.", Series: "replay/bytes_per_step"},
	{Name: "dreamfleet_replay_index_bytes", Kind: Gauge, Unit: "bytes", Help: "Memory of the index, estimated."},
	{Name: "dreamfleet_replay_incoming_steps", Kind: Gauge, Unit: "steps", Help: "Steps in the stream that the replay has yet to take, its consumer's lag; 0 when none has come for a quarter of a second."},
	{Name: "dreamfleet_replay_limiter_balance_steps", Kind: Gauge, Unit: "steps", Help: "Steps that may be sampled for those inserted and have not been; below 0: sampling is ahead."},
	{Name: "dreamfleet_replay_limiter_hold", Kind: Gauge, Unit: "0 or 1", Help: "Whether inserting is ahead and actors are held."},
	{Name: "dreamfleet_replay_evicted_chunks_total", Kind: Counter, Unit: "chunks", Help: "Chunks inserted in the whole run and no longer stored."},
	{Name: "dreamfleet_replay_duplicate_chunks_total", Kind: Counter, Unit: "chunks", Help: "Chunks dropped as stored already.", Series: "replay/duplicates"},
	{Name: "dreamfleet_replay_moved_chunks_total", Kind: Counter, Unit: "chunks", Help: "Chunks moved to let their segment go."},
	{Name: "dreamfleet_replay_refreshed_contexts_total", Kind: Counter, Unit: "contexts", Help: "Recurrent contexts that the learner wrote back."},
	{Name: "dreamfleet_replay_refresh_misses_total", Kind: Counter, Unit: "contexts", Help: "Recurrent contexts whose place was reused meanwhile.", Series: "replay/refresh_missed"},
	{Name: "dreamfleet_replay_damaged_bytes", Kind: Gauge, Unit: "bytes", Help: "Bytes that were cut off or skipped as damaged when the replay was opened."},

	{Name: "dreamfleet_dispatch_decisions_total", Kind: Counter, Unit: "decisions", Labels: []string{"decider", "reason"}, Help: "Decisions, by the policy, or by the reference for a reason: the stage, or a guard."},
	{Name: "dreamfleet_dispatch_seconds", Kind: Histogram, Unit: "seconds", Help: "How long decisions took, from the request to the answer."},
	{Name: "dreamfleet_dispatch_holds_total", Kind: Counter, Unit: "holds", Labels: []string{"guard"}, Help: "Holds that a guard has begun."},
	{Name: "dreamfleet_dispatch_held", Kind: Gauge, Unit: "0 or 1", Labels: []string{"guard"}, Help: "Whether a guard holds all streams."},
	{Name: "dreamfleet_dispatch_held_streams", Kind: Gauge, Unit: "streams", Help: "Streams that are held by themselves."},
	{Name: "dreamfleet_dispatch_share_ratio", Kind: Gauge, Unit: "0 to 1", Help: "Share of the streams that the stage gives to the policy: 0 is shadow, 1 active."},
	{Name: "dreamfleet_dispatch_streams", Kind: Gauge, Unit: "streams", Help: "Streams known."},
	{Name: "dreamfleet_dispatch_forgotten_streams_total", Kind: Counter, Unit: "streams", Help: "Streams forgotten for want of room."},
	{Name: "dreamfleet_dispatch_unfinished_jobs", Kind: Gauge, Unit: "jobs", Help: "Jobs assigned and not complete."},
	{Name: "dreamfleet_dispatch_completed_jobs_total", Kind: Counter, Unit: "jobs", Help: "Jobs reported complete."},
	{Name: "dreamfleet_dispatch_agreement_ratio", Kind: Gauge, Unit: "0 to 1", Help: "Share of the policy's advice that is the reference's choice, too."},
	{Name: "dreamfleet_dispatch_param_version", Kind: Gauge, Unit: "version", Help: "Parameters that advise; 0: none."},
	{Name: "dreamfleet_dispatch_param_timestamp_seconds", Kind: Gauge, Unit: "seconds", Help: "When the newest parameters came, or holds were released, as Unix time; 0: there are none yet."},
	{Name: "dreamfleet_dispatch_param_swaps_total", Kind: Counter, Unit: "swaps", Help: "Times that other parameters began to act."},
	{Name: "dreamfleet_dispatch_params_refused_total", Kind: Counter, Unit: "versions", Help: "Parameter versions that were refused."},
	{Name: "dreamfleet_dispatch_replayed_blocks", Kind: Gauge, Unit: "blocks", Help: "Blocks of arrivals replayed under policy and reference since the last step."},
	{Name: "dreamfleet_dispatch_replayed_cost_ratio", Kind: Gauge, Unit: "1", Help: "Mean completion time of these under the policy, over that under the reference."},
	{Name: "dreamfleet_dispatch_skipped_blocks_total", Kind: Counter, Unit: "blocks", Help: "Blocks not replayed for want of time."},
	{Name: "dreamfleet_dispatch_events_lost_total", Kind: Counter, Unit: "events", Help: "Escalations that the bus or the webhook did not take."},
	{Name: "dreamfleet_dispatch_audit_failed", Kind: Gauge, Unit: "0 or 1", Help: "Whether decisions cannot be recorded; the policy takes none meanwhile."},

	{Name: "dreamfleet_learner_updates_total", Kind: Counter, Unit: "updates", Help: "Updates, in the whole run.", Series: "learner/updates"},
	{Name: "dreamfleet_learner_run_seconds", Kind: Gauge, Unit: "seconds", Help: "Wall-clock time for which this process has trained, as last recorded.", Series: "run/seconds", Recorded: true},
	{Name: "dreamfleet_learner_replayed_steps_total", Kind: Counter, Unit: "steps", Help: "Steps trained on, in the whole run.", Series: "learner/replayed_steps", Recorded: true},
	{Name: "dreamfleet_learner_updates_per_second", Kind: Gauge, Unit: "updates per second", Help: "Updates a second in the last interval of the log.", Series: "learner/updates_per_second", Recorded: true},
	{Name: "dreamfleet_learner_replayed_steps_per_second", Kind: Gauge, Unit: "steps per second", Help: "Steps trained on a second in the last interval of the log.", Series: "learner/replayed_steps_per_second", Recorded: true},
	{Name: "dreamfleet_learner_wait_ratio", Kind: Gauge, Unit: "0 to 1", Help: "Share of the last interval of the log that went by waiting for batches.", Series: "learner/wait_fraction", Recorded: true},
	{Name: "dreamfleet_learner_param_version", Kind: Gauge, Unit: "version", Help: "Newest parameter version.", Series: "learner/param_version", Recorded: true},
	{Name: "dreamfleet_learner_skipped_updates_total", Kind: Counter, Unit: "updates", Help: "Updates skipped as not finite.", Series: "learner/skipped", Recorded: true},
	{Name: "dreamfleet_learner_restores_total", Kind: Counter, Unit: "times", Help: "Times that a checkpoint was restored after such updates.", Series: "learner/restores", Recorded: true},
	{Name: "dreamfleet_learner_staleness_versions", Kind: Histogram, Unit: "versions", Help: "How many versions behind the newest the sequences trained on were acted; metrics.jsonl has the mean.", Series: "learner/staleness"},
	{Name: "dreamfleet_learner_checkpoint_timestamp_seconds", Kind: Gauge, Unit: "seconds since 1970", Help: "When the last checkpoint was written by this process; 0: none yet."},
	{Name: "dreamfleet_learner_loss", Kind: Gauge, Unit: "nats or squares", Labels: []string{"term"}, Help: "Means of the loss's terms over the last interval of the log.", Series: "loss/*", Recorded: true},
	{Name: "dreamfleet_learner_measure", Kind: Gauge, Unit: "as named", Labels: []string{"name"}, Help: "Means of what else the algorithm tells of its updates, over the last interval of the log.", Series: "train/*", Recorded: true},

	{Name: "dreamfleet_env_episodes", Kind: Gauge, Unit: "episodes", Help: "Episodes of training that ended in the last interval of the log.", Series: "env/episodes", Recorded: true},
	{Name: "dreamfleet_env_mean_job_completion_time", Kind: Gauge, Unit: "simulated time units", Help: "Mean of their mean job completion times.", Series: "env/mean_jct", Recorded: true},
	{Name: "dreamfleet_evaluation_ratio", Kind: Gauge, Unit: "1", Labels: []string{"score"}, Help: "Mean job completion time by LEFT's on the evaluation seeds: interquartile mean for greedy and sampled policy, their median, mean and episodes of a trial by suffix. Below 1 is better than LEFT.", Series: "evaluation/*", Recorded: true},
}

// ForSeries returns the metric that a name in metrics.jsonl belongs to, and the value of its last
// label where it has one for all names that begin alike.
func ForSeries(name string) (m Metric, label string, ok bool) {
	for _, m := range Table {
		prefix, star := strings.CutSuffix(m.Series, "*")
		switch rest, begins := strings.CutPrefix(name, prefix); {
		case m.Series == "" || !begins:
		case star && rest != "":
			return m, rest, true
		case !star && rest == "":
			return m, "", true
		}
	}
	return Metric{}, "", false
}

// MetricsMarkdown is docs/metrics.md.
func MetricsMarkdown() string {
	var b strings.Builder
	b.WriteString(metricsHead)
	for _, m := range Table {
		series := ""
		if m.Series != "" {
			series = "`" + m.Series + "`"
		}
		var labels []string
		for _, l := range m.Labels {
			labels = append(labels, "`"+l+"`")
		}
		b.WriteString("| `" + m.Name + "` | " + string(m.Kind) + " | " + m.Unit + " | " + strings.Join(labels, ", ") + " | " + series + " | " + m.Help + " |\n")
	}
	return b.String()
}

const metricsHead = `# Metrics

<!-- Generated from monitor/table.go by go generate; edit the table there. -->

Each role serves these at ` + "`/metrics`" + ` when it is started with ` + "`--monitor`" + ` (the
[guide](guide.md#watch-it-from-outside) tells how), as far as it plays the part that a name begins
with: ` + "`dreamfleet train`" + ` has all of them. Each has the label ` + "`run`" + `, except on
` + "`dreamfleet nats`" + `, which serves all runs. Go's own metrics of the process and its memory,
` + "`process_*` and `go_*`" + `, stand beside them.

Units are base units: seconds, bytes. The values of labels are few and known beforehand; no label names
a single actor. The fifth column is the name under which metrics.jsonl and TensorBoard have the same.

| name | type | unit | labels | metrics.jsonl | meaning |
|---|---|---|---|---|---|
`
