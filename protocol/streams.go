package protocol

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Streams and buckets. They are shared by all runs on a server; subjects and
// keys begin with the run's name.
const (
	streamTraj   = "TRAJ"
	streamDead   = "DEAD"
	bucketCfg    = "cfg"
	bucketHB     = "hb"
	bucketCurves = "curves"
	storeCkpt    = "CKPT"

	// dedupeWindow is how long a stream remembers message ids. After it the
	// replay's own check drops repetitions.
	dedupeWindow = 2 * time.Minute
	// maxAckPending bounds chunks delivered and not acknowledged: enough to
	// have one fsync'd write of the replay cover a few hundred.
	maxAckPending = 256
)

func trajSubject(run, actor string) string { return "traj." + run + "." + actor }
func deadSubject(run string) string        { return "dead." + run }
func paramSubject(run string) string       { return "params." + run + ".chunk" }
func paramGetSubject(run string) string    { return "params." + run + ".get" }
func flowSubject(run string) string        { return "flow." + run }
func sampleSubject(run string) string      { return "batch." + run + ".get" }
func refreshSubject(run string) string     { return "batch." + run + ".refresh" }
func consumerName(run string) string       { return "replay-" + run }

// streams are what the role sets up when it connects: the replay its input, as
// does a learner that has no replay, both replay and learner the buckets that all
// read, an operator everything. Buckets
// and object stores are streams of the shape that NATS's ADR-8 and ADR-20 give
// them.
func (c BusConfig) streams() []jetstream.StreamConfig {
	traj := jetstream.StreamConfig{
		Name: streamTraj, Subjects: []string{"traj.>"}, Description: "trajectory chunks, until the replay has them on disk",
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxBytes: c.TrajBytes, MaxAge: c.TrajAge, MaxMsgSize: MaxMessage, Duplicates: dedupeWindow,
	}
	dead := jetstream.StreamConfig{
		Name: streamDead, Subjects: []string{"dead.>"}, Description: "messages that could not be decoded",
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxBytes: c.DeadBytes, MaxAge: 7 * 24 * time.Hour, MaxMsgSize: MaxMessage, Duplicates: dedupeWindow,
	}
	cfg := jetstream.StreamConfig{
		Name: "KV_" + bucketCfg, Subjects: []string{"$KV." + bucketCfg + ".>"}, Description: "runs' configurations and pointers",
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1,
		MaxBytes: 64 << 20, MaxMsgSize: MaxConfig, Duplicates: dedupeWindow,
		AllowRollup: true, DenyDelete: true, AllowDirect: true,
	}
	hb := jetstream.StreamConfig{
		Name: "KV_" + bucketHB, Subjects: []string{"$KV." + bucketHB + ".>"}, Description: "heartbeats, gone when not renewed",
		Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1,
		MaxBytes: 16 << 20, MaxMsgSize: maxHeartbeat, Duplicates: dedupeWindow,
		AllowRollup: true, DenyDelete: true, AllowDirect: true,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute,
	}
	curves := jetstream.StreamConfig{
		Name: "KV_" + bucketCurves, Subjects: []string{"$KV." + bucketCurves + ".>"}, Description: "runs' curves so far, for who watches",
		Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1,
		MaxBytes: 32 << 20, MaxMsgSize: MaxCurves, Duplicates: dedupeWindow,
		AllowRollup: true, DenyDelete: true, AllowDirect: true,
	}
	var all []jetstream.StreamConfig
	switch {
	case c.Role == RoleReplay, c.Role == RoleOperator, c.Role == RoleLearner && c.Collect:
		all = []jetstream.StreamConfig{traj, dead, cfg, hb}
	case c.Role == RoleLearner:
		all = []jetstream.StreamConfig{cfg, hb}
	}
	if c.Role == RoleLearner || c.Role == RoleOperator {
		all = append(all, curves)
	}
	return all
}

// checkpointStream is the object store of checkpoints. It is made with the first
// one: the server sets its bound aside on the disk, which a run that keeps its
// checkpoints in a folder does not need.
func (b *Bus) checkpointStream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "OBJ_" + storeCkpt, Subjects: []string{"$O." + storeCkpt + ".C.>", "$O." + storeCkpt + ".M.>"}, Description: "checkpoints",
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxBytes: b.cfg.CheckpointBytes, MaxMsgSize: -1, Duplicates: dedupeWindow,
		AllowRollup: true, AllowDirect: true,
	}
}

// BoundTrajectories sets the bounds of the trajectory stream, which a replay that
// joins a run learns from its configuration only after it has connected.
func (b *Bus) BoundTrajectories(ctx context.Context, maxBytes int64, maxAge time.Duration) error {
	bounded := b.bounded()
	bounded.TrajBytes, bounded.TrajAge = maxBytes, maxAge
	if err := bounded.fill(); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	if err := b.ensure(ctx, bounded); err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	b.mu.Lock()
	b.bounds = bounded
	b.mu.Unlock()
	return nil
}

// bounded is the configuration with the bounds that were set last.
func (b *Bus) bounded() BusConfig {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bounds
}

// ensure creates what is missing and checks what is there. It waits for a cluster
// that has not come together yet.
func (b *Bus) ensure(ctx context.Context, cfg BusConfig) error {
	for _, want := range cfg.streams() {
		if err := b.settle(ctx, want); err != nil {
			return fmt.Errorf("stream %s: %w", want.Name, err)
		}
	}
	return nil
}

func (b *Bus) settle(ctx context.Context, want jetstream.StreamConfig) error {
	for told := false; ; told = true {
		// A cluster without a leader does not answer at all.
		attempt, cancel := context.WithTimeout(ctx, settleTimeout)
		err := b.ensureStream(attempt, want)
		cancel()
		if err == nil {
			return nil
		}
		if !unsettled(err) || ctx.Err() != nil {
			return err
		}
		if !told {
			b.log.Info("waiting for the servers to agree on a stream", "stream", want.Name, "reason", err)
		}
		if pauseErr := pause(ctx, configPoll); pauseErr != nil {
			return fmt.Errorf("%w; last: %w", pauseErr, err)
		}
	}
}

// settleTimeout is how long servers may take to answer for a stream before they are
// asked again. A cluster has its first leader after half a second.
const settleTimeout = 2 * time.Second

// unsettled reports whether an error is that of a cluster which has no leader or too
// few servers at the moment.
func unsettled(err error) bool {
	const noLeader, noPeers = 10008, 10005
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == noLeader || api.ErrorCode == noPeers && !strings.Contains(api.Description, "insufficient")
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
}

// replicas of a stream or bucket: three where the server belongs to a cluster, so
// that one server can be lost, and one where it stands alone. Each role knows this
// from the server, before it knows the run's configuration.
func (b *Bus) replicas() int {
	if b.nc.ConnectedClusterName() != "" {
		return 3
	}
	return 1
}

// storageExceeded is the server's error code where a stream's bound is more than
// what is left of its storage.
const storageExceeded = 10047

func (b *Bus) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	want.Replicas = b.replicas()
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = b.js.CreateStream(ctx, want)
		var api *jetstream.APIError
		if errors.As(err, &api) && (api.ErrorCode == storageExceeded || strings.Contains(api.Description, "insufficient storage")) {
			return fmt.Errorf("the server has no %d MB of storage left to set aside (an embedded one takes three quarters of the free disk): "+
				"free some, or set a smaller bound, for trajectories bus.store_bytes: %w", want.MaxBytes>>20, err)
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return err
		}
		stream, err = b.js.Stream(ctx, want.Name) // another role was quicker
	}
	if err != nil {
		return err
	}
	have := stream.CachedInfo().Config
	if err := compatible(have, want); err != nil {
		return err
	}
	want.Replicas = max(have.Replicas, want.Replicas) // more of them is somebody's decision
	if have.MaxBytes == want.MaxBytes && have.MaxAge == want.MaxAge && have.MaxMsgSize == want.MaxMsgSize && have.Replicas == want.Replicas {
		return nil
	}
	b.log.Info("changing a stream's bounds", "stream", want.Name, "max_bytes", want.MaxBytes, "max_age", want.MaxAge, "replicas", want.Replicas)
	have.MaxBytes, have.MaxAge, have.MaxMsgSize, have.Replicas = want.MaxBytes, want.MaxAge, want.MaxMsgSize, want.Replicas
	_, err = b.js.UpdateStream(ctx, have)
	return err
}

// ErrIncompatible is wrapped by the error of Connect when a stream or bucket
// exists with settings that this program cannot work with.
var ErrIncompatible = errors.New("incompatible settings")

// compatible compares what decides about correctness. Bounds (bytes, age,
// message size) and replicas are not among it: they are changed to what is
// configured.
func compatible(have, want jetstream.StreamConfig) error {
	subjects := func(c jetstream.StreamConfig) string {
		return strings.Join(slices.Sorted(slices.Values(c.Subjects)), " ")
	}
	for _, s := range []struct {
		setting    string
		have, want any
	}{
		{"subjects", subjects(have), subjects(want)},
		{"retention", have.Retention, want.Retention},
		{"storage", have.Storage, want.Storage},
		{"discard", have.Discard, want.Discard},
		{"max_msgs_per_subject", max(0, have.MaxMsgsPerSubject), want.MaxMsgsPerSubject},
		{"duplicate_window", have.Duplicates, want.Duplicates},
		{"allow_msg_ttl", have.AllowMsgTTL, want.AllowMsgTTL},
		{"allow_rollup_hdrs", have.AllowRollup, want.AllowRollup},
		{"allow_direct", have.AllowDirect, want.AllowDirect},
	} {
		if s.have != s.want {
			return fmt.Errorf("%w: %s is %v and must be %v; delete the stream or use another NATS account", ErrIncompatible, s.setting, s.have, s.want)
		}
	}
	return nil
}
