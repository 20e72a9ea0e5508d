// Package protocol holds all that crosses a wire or a disk between the roles
// of a run: the trajectory chunk, batches, parameter frames, the run's
// configuration, and the bus that carries them.
//
// # Messages
//
// A Chunk is a run of time steps of one environment, columnar: actors publish
// it, the replay stores it. A Batch is what the replay sends a learner, and a
// Refresh the recurrent state that comes back. All three share one envelope
// with magic, version, length and CRC32C; docs/formats.md draws it byte by
// byte. Decoders trust nothing: what they refuse wraps ErrVersion,
// ErrTruncated, ErrTooLarge or ErrCorrupt, and Reason names it for counting.
// What they return has memory of its own.
//
// # The bus
//
// A Bus is one role's connection to a NATS server, which is either embedded
// (StartServer) or anywhere else; the code path is the same.
//
//	server, err := protocol.StartServer(protocol.ServerConfig{StoreDir: dir}, log)
//	bus, err := protocol.Connect(ctx, protocol.BusConfig{
//		Server: server, Run: "park", Role: protocol.RoleActor, Name: "a0",
//	}, log)
//	err = bus.PublishChunk(ctx, chunk, func(seq uint64, err error) { ... })
//
//	actor    PublishChunk, FollowParams, FollowFlow, FollowLooks, PublishView, GetConfig, AwaitConfig, Heartbeat
//	replay   ConsumeChunks, PublishFlow, ServeSamples, GetConfig, AwaitConfig, BoundTrajectories, Heartbeat
//	learner  TakeLease and what a Lease lets it do, RemoteReplay or ConsumeChunks, PutConfig, NewestCheckpoint, GetCheckpoint, PutCurves, Heartbeat
//	operator AskView, FollowViews, GetCurves, GetCheckpoint
//	all      Heartbeats, AllHeartbeats, Stats
//
// What holds:
//
//   - Chunks are delivered at least once: publishing is repeated by the caller
//     under the same message id, and acknowledged by the replay once written.
//   - Parameters are delivered at most once, verified, never torn, and newest
//     only. Losses are repaired by fetching.
//   - One learner leads a run at a time. What another still sends is refused by
//     its epoch.
//   - Nothing is dropped, denied or retried without a counter in Stats.
//   - Methods that wait, wait until their context ends: roles start in any
//     order and outlive each other's restarts.
//   - Streams and buckets are created by whoever comes first and checked by
//     everybody after. Where servers lose them, replay and leader make them again,
//     the configuration included.
//   - Nothing depends on what a machine's clock says, only on how far it has gone:
//     clocks that jump, or differ, change neither what is stored nor who leads.
package protocol
