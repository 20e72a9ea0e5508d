package loadbalance

// Job is one unit of incoming work.
type Job struct {
	Gap  int64 // time since the previous arrival (the first job's: since time 0), >= 0
	Size int64 // work; a server of rate r serves it in int(Size/r), >= 0
}

// MaxSize bounds a job's size, so that the times of an episode stay integers
// that a float64 holds exactly. At Park's scale of 100 and shape of 1.5 a draw
// exceeds it once in 2e13 jobs.
const MaxSize = 1 << 36

// MaxGap bounds the time between two arrivals, for the same reason.
const MaxGap = 1 << 36

// Source is a stream of jobs. Next returns io.EOF at the end of a finite one.
type Source interface {
	Next() (Job, error)
}
