// Package bench measures the parts of dreamfleet against limits that are
// measured in the same run, as machines are shared and figures of one minute
// say little about the next: peak flops, the speed of copying memory, raw
// NATS, or the learner with nobody beside it.
//
//	for _, b := range bench.All() {
//		err := b.Run(ctx, &bench.Options{Threads: 2, Dir: dir}, report)
//	}
//
// Every figure is the median of at least five rounds after one to warm up.
// Value and limit take turns, round by round, so that what disturbs the one
// disturbs the other, and the ratio is the median of the rounds' ratios.
// docs/performance.md has the figures and what they mean.
package bench
