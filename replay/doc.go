// Package replay keeps what actors have seen and hands it to the learner.
//
// A replay is a folder of append-only segment files that hold chunks, the runs
// of time steps that actors publish, column by column as the learner wants
// them. The files are mapped into memory, so that sampling is copying and the
// system decides what stays in memory; an index of some 150 bytes a chunk
// knows the rest. docs/formats.md draws the files.
//
//	store, err := replay.Open(replay.Config{
//		Dir: "runs/park/replay", Run: "park",
//		Capacity: 500_000, Mix: replay.Mix{Uniform: 1},
//		Limiter: replay.LimiterConfig{Ratio: 128, MinSteps: 2048, Budget: 16 * 16 * 32},
//		Batch:   16, Length: 32,
//	}, log)
//	...
//	service := &replay.Service{Store: store, Bus: bus, Log: log}
//	go service.Run(ctx) // chunks from the bus to the disk
//
//	var batch protocol.Batch
//	for {
//		err := store.Sample(ctx, &batch, 16, 32) // waits for its turn
//		...                                      // train
//		_, err = store.Refresh(&protocol.Refresh{Refs: batch.Refs, Context: contexts})
//	}
//
// # Sequences
//
// A stream is one environment slot of one actor. Its chunks are numbered, and a
// sequence of T steps runs through as many of them as it takes, into following
// trials too, where the flag First tells the learner to reset its state. It
// starts at a step with a recurrent context, of which a chunk has one every
// Stride steps, and only where all T steps are stored: a chunk lost on the way
// leaves a gap that no sequence spans. With every batch come references to the
// contexts inside it. Refresh writes recomputed ones back in place, unless the
// slot of a reference has got another chunk meanwhile, which its generation
// tells.
//
// # What is kept and what is drawn
//
// The window holds the newest steps, first in, first out. The reservoir holds
// an even random sample of all chunks there ever were, against forgetting, as
// WMAR does (Yang et al. 2024, arXiv 2401.16650): half of the capacity is the usual
// share. It keeps single chunks, so a chunk should be at least as long as a
// sequence, or else most of what it keeps cannot be drawn. A Mix says which
// fractions of a batch come evenly from the window, from the window with a
// weight that halves with age, and from the reservoir.
//
// # Pace
//
// The Limiter keeps steps sampled and steps inserted in proportion: Sample
// waits when it is ahead, and Hold is for actors to wait when they are.
//
// # Invariants
//
//   - A chunk is stored once, however often it comes.
//   - What Insert took before Sync returned is there after a power cut. Damage
//     costs the records it hits and no others, and is reported.
//   - Disk and memory are bounded by the capacity: segments with nothing live
//     are removed, and from those with little the rest is moved.
//   - A batch has only whole sequences, of whole records that had their sums
//     when they were read.
//   - All randomness is from one seeded stream, which Save saves, and from a
//     hash of the seed. The same calls give the same batches, and with
//     Config.Exact they do so across a restart.
//
// A refreshed context lives in the mapped segment, where its old value was. It
// survives the process, but a power cut may leave any mixture of old and new
// rows, which does no harm: all are estimates of the same state. An exact
// resume has them from the saved state.
package replay
