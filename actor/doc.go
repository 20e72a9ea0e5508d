// Package actor is the rollout: many environments under one batched policy,
// turned into trajectory chunks for the replay.
//
// An Actor owns a number of streams, each an environment that plays trials
// without end, and a Policy that acts in all of them at once. One Tick takes
// one time step in every stream. Steps are assembled into chunks; complete ones
// wait in a bounded spool until the bus has stored them.
//
//	name, err := actor.Incarnate("west-3") // streams that no earlier process has used
//	a, err := actor.New(actor.Config{Run: "park", Name: name, ChunkLength: 64, Stride: 16, Spool: 256},
//		trials, policy, bus, log)
//	err = actor.Serve(ctx, bus, log, a) // until ctx ends, then drain
//
// Serve runs the actors of a process: one subscription to parameters, one to
// flow messages and one heartbeat serve them all. In lockstep an orchestrator
// calls Tick, Flush and SetParams itself, and State and Restore to continue
// exactly after an interruption.
//
// # Parameters
//
// SetParams leaves a blob that the next Tick loads before it acts, so that all
// streams change over between two steps. A blob that the policy refuses is
// counted and the one before stays. Until the first blob actions are uniform
// among those allowed; such steps have version 0.
//
// # On-policy
//
// With Config.OnPolicy a chunk is a rollout of one version: parameters change
// over between two chunks only, and Run acts one chunk in every environment and
// then waits for the next version. It rolls once more with the same one where
// none comes for 5 s, and then at intervals that double up to a minute, so that
// chunks that got lost are replaced. It waits for the first parameters, and there
// is no replay that could hold it.
//
// # Falling behind
//
// Environments never wait for the network. When the bus is slow or away the
// spool fills and the oldest chunks are dropped and counted. A chunk has its
// number in the stream from when it is assembled, so that a dropped one leaves
// a gap, over which the replay joins nothing. Only the replay holds the
// environments: each of its flow messages says whether learning has fallen
// behind acting, and if not gives leave for two more chunks in each. When none
// has come for 5 s the replay is taken to be away, and they go on by two chunks
// in each 5 s.
//
// # Invariants
//
//   - Tick does no I/O and reads no clock: the same environments, policy and
//     parameters give the same chunks.
//   - (Run, Name, stream, Seq) names one chunk for ever, through retries and
//     resumption.
//   - A context row is the policy's state before its step; at the first step of
//     a trial that is all zeros.
package actor
