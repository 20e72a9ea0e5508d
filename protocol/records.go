package protocol

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// MaxConfig is the largest configuration in bytes.
	MaxConfig    = 256 << 10
	maxHeartbeat = 16 << 10
	maxFlow      = 1 << 10
	// configPoll is how often a role that waits for the configuration looks, and
	// configCheck how often one that has it looks whether it is still the same: a
	// thousand actors make 200 small requests a second.
	configPoll  = 500 * time.Millisecond
	configCheck = 5 * time.Second
)

// PutConfig stores the run's configuration, opaque bytes here, for every role
// to read.
func (b *Bus) PutConfig(ctx context.Context, data []byte) error {
	if len(data) > MaxConfig {
		return fmt.Errorf("configuration of %d bytes, at most %d: %w", len(data), MaxConfig, ErrTooLarge)
	}
	kv, err := b.js.KeyValue(ctx, bucketCfg)
	if err == nil {
		_, err = kv.Put(ctx, b.cfg.Run+".config", data)
	}
	if err != nil {
		return fmt.Errorf("store the configuration: %w", b.cause(err))
	}
	return nil
}

// GetConfig returns the run's configuration. It waits for it until ctx ends,
// since the role that stores it may start last.
func (b *Bus) GetConfig(ctx context.Context) ([]byte, error) {
	for told := false; ; told = true {
		data, err := b.getConfig(ctx)
		if err == nil {
			return data, nil
		}
		if !told {
			b.log.Info("waiting for the run's configuration", "run", b.cfg.Run, "reason", err)
		}
		if pauseErr := pause(ctx, configPoll); pauseErr != nil {
			return nil, fmt.Errorf("wait for the configuration of run %s: %w; last: %w", b.cfg.Run, pauseErr, err)
		}
	}
}

// KeepConfig puts the run's configuration back, until ctx ends, whose error it
// returns, where the bus has lost it or has another one: after servers have lost their
// store, and where somebody else has written it, whom the other roles would follow
// while this learner leads with its own. It looks as often as AwaitConfig does, and
// only puts while it leads.
func (l *Lease) KeepConfig(ctx context.Context, data []byte) error {
	b := l.bus
	for {
		if err := pause(ctx, b.cfg.ConfigCheck+b.cfg.Jitter(b.cfg.ConfigCheck)); err != nil {
			return err
		}
		have, err := b.getConfig(ctx)
		why := "it was lost"
		switch {
		case err == nil && !bytes.Equal(have, data):
			why = "somebody else has changed it"
		case err == nil || !errors.Is(err, jetstream.ErrKeyNotFound):
			continue // it is the same, or can not be read now
		}
		if !l.held() {
			continue
		}
		if err := b.PutConfig(ctx, data); err != nil {
			b.log.Warn("the run's configuration is not on the bus", "run", b.cfg.Run, "error", err)
			continue
		}
		b.log.Warn("the run's configuration is put back", "run", b.cfg.Run, "reason", why)
	}
}

// AwaitConfig returns nil when the run's configuration is another one than have,
// which a role has taken from GetConfig: a learner has begun the run anew, or
// goes on with other settings, and the role must follow. Until then it looks now
// and again, and returns ctx's error when that ends.
func (b *Bus) AwaitConfig(ctx context.Context, have []byte) error {
	for {
		if err := pause(ctx, b.cfg.ConfigCheck+b.cfg.Jitter(b.cfg.ConfigCheck)); err != nil {
			return err
		}
		// What can not be read now is looked at again.
		if data, err := b.getConfig(ctx); err == nil && !bytes.Equal(data, have) {
			return nil
		}
	}
}

func (b *Bus) getConfig(ctx context.Context) ([]byte, error) {
	kv, err := b.js.KeyValue(ctx, bucketCfg)
	if err != nil {
		return nil, err
	}
	entry, err := kv.Get(ctx, b.cfg.Run+".config")
	if err != nil {
		return nil, err
	}
	return entry.Value(), nil
}

// ErrManyRuns is wrapped by the error of FindRun where the choice is not its own.
var ErrManyRuns = errors.New("there are several runs on the bus")

// FindRun returns the name of the only run whose configuration is on the bus. It waits for one until
// ctx ends, since the role that stores it may start last. An actor may call it: it asks for no more
// than the names. BusConfig's Run need not be set.
func FindRun(ctx context.Context, cfg BusConfig, log hclog.Logger) (string, error) {
	cfg.Run, cfg.ReadOnly = "unknown", true
	b, err := Connect(ctx, cfg, log)
	if err != nil {
		return "", err
	}
	defer b.Close()
	for told := false; ; told = true {
		runs, err := b.runs(ctx)
		switch {
		case err == nil && len(runs) == 1:
			return runs[0], nil
		case err == nil && len(runs) > 1:
			return "", fmt.Errorf("%w: %s; say which to join", ErrManyRuns, strings.Join(runs, ", "))
		case err == nil:
			err = errors.New("there is none yet")
		}
		if !told {
			log.Info("waiting for a run", "reason", err)
		}
		if pauseErr := pause(ctx, configPoll); pauseErr != nil {
			return "", fmt.Errorf("wait for a run: %w; last: %w", pauseErr, err)
		}
	}
}

// runs lists the runs that have a configuration, by name.
func (b *Bus) runs(ctx context.Context) ([]string, error) {
	stream, err := b.js.Stream(ctx, "KV_"+bucketCfg)
	if err != nil {
		return nil, err
	}
	const prefix, suffix = "$KV." + bucketCfg + ".", ".config"
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+"*"+suffix))
	if err != nil {
		return nil, err
	}
	var runs []string
	for subject := range info.State.Subjects {
		run := strings.TrimSuffix(strings.TrimPrefix(subject, prefix), suffix)
		if ValidName(run) {
			runs = append(runs, run)
		}
	}
	slices.Sort(runs)
	return runs, nil
}

// Heartbeat is a living process's last word.
type Heartbeat struct {
	Run    string
	Role   Role
	Name   string
	Status Status
	Time   time.Time // when, by the server's clock
}

// Heartbeat stores what the process says of itself under its name three times in
// HeartbeatTTL, until ctx ends, whose error it returns. fill writes the role's
// part of the status. A heartbeat that could not be sent is counted and not
// repeated.
func (b *Bus) Heartbeat(ctx context.Context, fill func(*Status)) error {
	subject := "$KV." + bucketHB + "." + b.cfg.Run + "." + string(b.cfg.Role) + "." + b.cfg.Name
	for ctx.Err() == nil {
		status := Status{Host: b.cfg.Host, Version: b.cfg.Version, PID: os.Getpid(), Started: b.cfg.Started, Bus: b.Stats()}
		fill(&status)
		text, err := status.encode()
		if err == nil {
			err = b.beat(ctx, subject, text)
		}
		if err != nil && ctx.Err() == nil {
			b.counters.heartbeatLost.Add(1)
			b.log.Debug("heartbeat is lost", "error", err)
		}
		_ = pause(ctx, b.cfg.HeartbeatTTL/3) // ctx is looked at above
	}
	return ctx.Err()
}

// beat publishes to the key's subject, since a bucket's Update takes no TTL.
func (b *Bus) beat(ctx context.Context, subject string, status []byte) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.HeartbeatTTL)
	defer cancel()
	_, err := b.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: status}, jetstream.WithMsgTTL(b.cfg.HeartbeatTTL))
	return err
}

// Heartbeats lists the run's living processes, by role and name.
func (b *Bus) Heartbeats(ctx context.Context) ([]Heartbeat, error) {
	return b.heartbeats(ctx, b.cfg.Run+".>")
}

// AllHeartbeats lists the living processes of all runs, by run, role and name.
func (b *Bus) AllHeartbeats(ctx context.Context) ([]Heartbeat, error) { return b.heartbeats(ctx, ">") }

func (b *Bus) heartbeats(ctx context.Context, keys string) ([]Heartbeat, error) {
	kv, err := b.js.KeyValue(ctx, bucketHB)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil // nobody has ever been there
	}
	if err != nil {
		return nil, fmt.Errorf("list heartbeats: %w", b.cause(err))
	}
	watcher, err := kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list heartbeats: %w", b.cause(err))
	}
	defer func() { _ = watcher.Stop() }() // fails only on a closed connection
	var all []Heartbeat
	for {
		select {
		case entry := <-watcher.Updates():
			if entry == nil { // all that is there has been told
				slices.SortFunc(all, func(x, y Heartbeat) int {
					return cmp.Or(cmp.Compare(x.Run, y.Run), cmp.Compare(x.Role, y.Role), cmp.Compare(x.Name, y.Name))
				})
				return all, nil
			}
			part := strings.Split(entry.Key(), ".")
			if len(part) != 3 {
				continue
			}
			status, err := decodeStatus(entry.Value())
			if err != nil { // it lives, whatever it says
				b.log.Debug("heartbeat is not understood", "key", entry.Key(), "error", err)
			}
			all = append(all, Heartbeat{Run: part[0], Role: Role(part[1]), Name: part[2], Status: status, Time: entry.Created()})
		case <-ctx.Done():
			return nil, fmt.Errorf("list heartbeats: %w", ctx.Err())
		}
	}
}

// Flow is what the replay tells the actors: whether to stop stepping, why, and
// how far it is.
type Flow struct {
	Hold    bool   `json:"hold"`
	Reason  string `json:"reason"`  // in words, for the log; at most 256 bytes are sent
	Inserts uint64 `json:"inserts"` // steps inserted
	Samples uint64 `json:"samples"` // steps sampled

	// Of this shard, for the others and for the learner; a replay of before there were
	// shards does not say them.
	Steps   uint64  `json:"steps"`   // stored
	Balance float64 `json:"balance"` // of its limiter
}

// PublishFlow tells all actors. It is not acknowledged: tell them again and
// again.
func (b *Bus) PublishFlow(f Flow) error {
	f.Reason = f.Reason[:min(len(f.Reason), 256)]
	data, err := json.Marshal(f)
	if err == nil {
		err = b.nc.Publish(b.sharded("flow", int(b.shard.Load()), ""), data)
	}
	if err != nil {
		return fmt.Errorf("publish flow: %w", b.cause(err))
	}
	return nil
}

// FollowFlow hands every flow message to handler until ctx ends, whose error
// it returns. Of several shards each message tells the flow of all together.
func (b *Bus) FollowFlow(ctx context.Context, handler func(Flow)) error {
	all := newFlows(int(b.shards.Load()))
	return b.FollowShards(ctx, func(shard int, f Flow) {
		now := time.Now()
		all.take(shard, f, now)
		handler(all.sum(now))
	})
}

func decodeFlow(data []byte) (Flow, error) {
	if len(data) > maxFlow {
		return Flow{}, fmt.Errorf("flow message of %d bytes, at most %d: %w", len(data), maxFlow, ErrTooLarge)
	}
	var f Flow
	if err := json.Unmarshal(data, &f); err != nil {
		return Flow{}, fmt.Errorf("flow message: %w: %w", err, ErrCorrupt)
	}
	return f, nil
}
