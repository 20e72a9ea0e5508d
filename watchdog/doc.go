// Package watchdog knows of every loop of a process what it does and for how long, and says so when
// one makes no progress.
//
// A loop tells its Loop at each turn: Do names the step that it begins, Wait what it waits for. A
// step that lasts longer than the limit is a stall. A wait never is, however long, since something
// else has to happen first; but it has a name, and is spoken of, too.
//
//	dog := watchdog.New(watchdog.Limit, time.Now, log)
//	go dog.Run(ctx, ticker.C)
//	...
//	loop := dog.Loop("learner", "learn")
//	defer loop.End()
//	for {
//		loop.Wait("batch")
//		batch := <-batches
//		loop.Do("update")
//		train(batch)
//	}
//
// What the loops have told is kept as histograms of seconds by step, and as the share of the last
// ten seconds that a loop was busy: one that is always busy is what bounds the others, as in the
// saturation metrics of hashicorp/raft.
//
// Invariants: the package knows none of the others; it reads no clock but the one that it is given; a
// nil Watchdog and a nil Loop do nothing, so that a loop needs no watchdog. Telling allocates nothing
// and takes 0.1 µs, some thousandth of an actor's tick.
package watchdog
