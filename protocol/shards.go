package protocol

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// The replay of a run may be divided among several processes, its shards, since one
// inserts on one core and has one disk. Each actor's chunks go to the shard that the
// hash of its name tells, so that its streams stay whole. The subjects of shards have
// the shard's number in them; a run with one replay has those that there always were.

// MaxShards is the largest number of replays of a run.
const MaxShards = 64

// shardSilence is how long a shard says nothing until it is taken to be away: twenty
// times the interval at which it tells its flow.
const shardSilence = 5 * time.Second

// ShardOf is the shard of so many that keeps an actor's chunks, by FNV-1a of 64 bits.
func ShardOf(actor string, shards int) int {
	h := fnv.New64a()
	h.Write([]byte(actor))
	return int(h.Sum64() % uint64(max(1, shards)))
}

// Divide tells the connection among how many replays the run is divided, which its
// configuration says, and for a replay which of them it is: from 0. It comes before
// everything that concerns chunks, batches and flow.
func (b *Bus) Divide(shards, own int) error {
	if shards < 1 || shards > MaxShards || own < 0 || own >= shards {
		return fmt.Errorf("bus: shard %d of %d: there are 1 to %d, numbered from 0", own, shards, MaxShards)
	}
	b.shards.Store(int32(shards))
	b.shard.Store(int32(own))
	return nil
}

func (b *Bus) divided() bool { return b.shards.Load() > 1 }

// sharded is a subject of the run in the form that its division has: with the shard's
// number after the run's name, or without.
func (b *Bus) sharded(kind string, shard int, rest string) string {
	subject := kind + "." + b.cfg.Run
	if b.divided() {
		subject += "." + strconv.Itoa(shard)
	}
	return subject + rest
}

func (b *Bus) chunkSubject(actor string) string {
	return b.sharded("traj", ShardOf(actor, int(b.shards.Load())), "."+actor)
}

// consumer is the name and the subjects of this replay's consumer. The first shard
// also takes what actors publish that know of no shards: so each chunk is in exactly
// one replay.
func (b *Bus) consumer() (name string, subjects []string) {
	if !b.divided() {
		return consumerName(b.cfg.Run), []string{trajSubject(b.cfg.Run, "*")}
	}
	shard := int(b.shard.Load())
	subjects = []string{b.sharded("traj", shard, ".*")}
	if shard == 0 {
		subjects = append(subjects, trajSubject(b.cfg.Run, "*"))
	}
	// No run's own consumer is named so, see consumerName.
	return "replay" + strconv.Itoa(shard) + "-" + b.cfg.Run, subjects
}

// FollowShards hands what each shard of the run says of its flow to handler, until ctx
// ends, whose error it returns.
func (b *Bus) FollowShards(ctx context.Context, handler func(shard int, f Flow)) error {
	subject := flowSubject(b.cfg.Run)
	if b.divided() {
		subject += ".*"
	}
	return b.follow(ctx, subject, func(msg *nats.Msg) { b.shardFlow(msg, handler) })
}

// shardFlow hands a message to handler.
func (b *Bus) shardFlow(msg *nats.Msg, handler func(shard int, f Flow)) {
	flow, err := decodeFlow(msg.Data)
	shard := 0
	if b.divided() && err == nil {
		number := msg.Subject[len(flowSubject(b.cfg.Run))+1:]
		if shard, err = strconv.Atoi(number); err != nil || shard < 0 || shard >= int(b.shards.Load()) {
			err = fmt.Errorf("flow of shard %.20q, of %d: %w", number, b.shards.Load(), ErrCorrupt)
		}
	}
	if err != nil {
		b.refuse("flow message", msg.Subject, msg.Header, msg.Data, err)
		return
	}
	handler(shard, flow)
}

// flows are what the shards of a run have said last.
type flows struct {
	said  []Flow
	heard []time.Time
}

func newFlows(shards int) *flows {
	return &flows{make([]Flow, max(1, shards)), make([]time.Time, max(1, shards))}
}

func (f *flows) take(shard int, flow Flow, now time.Time) {
	f.said[shard], f.heard[shard] = flow, now
}

// here reports whether a shard has been heard of lately.
func (f *flows) here(shard int, now time.Time) bool {
	return !f.heard[shard].IsZero() && now.Sub(f.heard[shard]) < shardSilence
}

// sum is the flow of all together: actors hold while one of those that are there says
// so, and steps add up, those of shards that are away too.
func (f *flows) sum(now time.Time) (all Flow) {
	for i, s := range f.said {
		if s.Hold && !all.Hold && f.here(i, now) {
			all.Hold, all.Reason = true, s.Reason
		}
		all.Inserts += s.Inserts
		all.Samples += s.Samples
		all.Steps += s.Steps
		all.Balance += s.Balance
	}
	return all
}
