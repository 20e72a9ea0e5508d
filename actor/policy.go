package actor

// Policy acts in all of an actor's environments at once. It has one row of
// recurrent state for each and is used by one goroutine.
type Policy interface {
	// ContextLen is the width C of a row's recurrent context.
	ContextLen() int
	// Act chooses an action in each of n rows: obs [n,D], flags [n], mask [n,A]
	// of allowed actions. It writes the actions [n] and the natural logarithms of their
	// probabilities [n]. It resets rows flagged First before they act; before
	// the first Load it draws uniformly among the allowed actions.
	Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32)
	// Context writes the carry before the next Act, [n,C]. A row after a reset
	// is all zeros.
	Context(dst []float32)
	// Load takes over a parameter blob, between two calls of Act. After an
	// error the parameters are as before.
	Load(blob []byte) error
	// Save appends the recurrent state and the random stream, not the
	// parameters; Restore takes them back.
	Save(dst []byte) ([]byte, error)
	Restore(state []byte) error
}
