package model

import "sync/atomic"

// jobs are independent pieces of work, the gradients of a network's weights,
// that a pool's threads take one after the other as they become free. Each is
// done by one thread, so results do not depend on who takes which; and each is
// large enough that this beats sharing every product of matrices.
type jobs struct {
	pool *Pool
	list []func()
	next atomic.Int64
	work func(lo, hi int)
}

// newJobs takes the list, the largest jobs first where that is known.
func newJobs(pool *Pool, list []func()) *jobs {
	j := &jobs{pool: pool, list: list}
	j.work = func(int, int) {
		for {
			i := j.next.Add(1) - 1
			if i >= int64(len(j.list)) {
				return
			}
			j.list[i]()
		}
	}
	return j
}

func (j *jobs) run() {
	j.next.Store(0)
	j.pool.Run(j.pool.Threads(), j.work)
}
