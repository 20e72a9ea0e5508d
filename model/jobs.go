package model

// jobs are independent pieces of work, the gradients of a network's weights,
// that a pool's threads take one after the other as they become free. Each is
// done by one thread, so results do not depend on who takes which; and each is
// large enough that this beats sharing every product of matrices.
type jobs struct {
	pool *Pool
	list []func()
	work func(thread, i int)
}

// newJobs takes the list, the largest jobs first where that is known.
func newJobs(pool *Pool, list []func()) *jobs {
	return &jobs{pool, list, func(_, i int) { list[i]() }}
}

func (j *jobs) run() { j.pool.Deal(len(j.list), j.work) }
