// Package learner is the training loop: batches in, parameters out, and
// checkpoints on the way. It knows nothing of networks; the algorithm behind
// it is one value with four methods.
//
// A Loop draws a Batch from its Source, has its Algorithm train on it, writes
// recomputed recurrent contexts back to the Source, and at intervals counted
// in updates hands acting parameters to its Publisher, means of metrics to its
// Recorder, and everything to a checkpoint:
//
//	loop, err := learner.New(learner.Config{
//		PublishEvery: 10, CheckpointEvery: 2000, LogEvery: 50,
//		KeepCheckpoints: 3, MaxSkipped: 10, ConfigDigest: digest,
//	}, learner.Deps{
//		Source: source, Algorithm: agent, Publisher: publisher, Recorder: recorder,
//		Checkpoints: "run/checkpoints", Now: time.Now, Log: log,
//	})
//	err = loop.Run(ctx) // until ctx ends; the same call resumes
//
// Run samples one batch ahead and publishes on the side, unless Config.InPlace. In lockstep an
// orchestrator calls Start, Step and Finish itself; nothing then runs on the
// side, and no value depends on the clock.
//
// # Checkpoints
//
// A checkpoint is a folder NNNNNNNN, numbered in the order of writing, with
// the Algorithm's state.safetensors, files of other parts, and manifest.json,
// which holds the loop's counters and the size and SHA-256 of every file and
// of itself. It is written aside, synced and renamed, so that a folder of that
// name is complete whatever happens. Latest opens the newest one in which
// every byte is as it was written; it steps over damaged ones and says so.
// They are left for inspection, and never deleted.
//
// # Invariants
//
//   - An update is one call of Train, skipped ones included, but not one that its
//     context ended. Restoring parameters after non-finite updates does not turn
//     their number back; resuming from a checkpoint does.
//   - A parameter version is used once. Versions grow over restarts; after a
//     crash they jump, since some may have gone out since the checkpoint. To
//     tell one, resuming writes a checkpoint that is not a clean end. Lockstep
//     alone goes on with the versions that come next, its actors with it.
//   - The Algorithm is used by one goroutine at a time.
//   - No checkpoint is written amid skipped updates.
package learner
