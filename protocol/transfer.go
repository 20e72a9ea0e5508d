package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrStalled says that a checkpoint on its way to or from the bus got no further.
var ErrStalled = errors.New("the servers do not go on with it")

// transfer is the context of a checkpoint on its way to or from the bus. It ends when nothing has passed for
// the bus's StallTimeout: a server that ceases to lead a stream takes requests with it that nobody answers any more, and
// the library waits for an answer as long as the context lasts. The time of the reader or writer at this end does not
// count, and how long the whole takes is not bounded.
type transfer struct {
	context.Context
	cancel context.CancelCauseFunc
	after  time.Duration
	timer  *time.Timer
}

func (b *Bus) newTransfer(ctx context.Context) *transfer {
	ctx, cancel := context.WithCancelCause(ctx)
	t := &transfer{Context: ctx, cancel: cancel, after: b.cfg.StallTimeout}
	t.timer = time.AfterFunc(t.after, func() { cancel(ErrStalled) })
	return t
}

// Deadline is always ahead. The library gives a context without one five seconds for a whole object, and one
// that has one until then for each wait for a piece of it, in which it does not see that the context has ended.
func (t *transfer) Deadline() (time.Time, bool) {
	next := time.Now().Add(t.after)
	if last, ok := t.Context.Deadline(); ok && last.Before(next) {
		return last, true
	}
	return next, true
}

// passed says that it has got further.
func (t *transfer) passed() { t.timer.Reset(t.after) }

// end ends it and returns what its error came from.
func (t *transfer) end(err error) error {
	if err != nil && errors.Is(context.Cause(t), ErrStalled) {
		err = fmt.Errorf("%w: %w", ErrStalled, err)
	}
	t.timer.Stop()
	t.cancel(nil)
	return err
}

func (t *transfer) reader(r io.Reader) io.Reader { return transferReader{t, r} }

func (t *transfer) writer(w io.Writer) io.Writer { return transferWriter{t, w} }

type transferReader struct {
	t *transfer
	r io.Reader
}

func (r transferReader) Read(p []byte) (int, error) {
	r.t.timer.Stop()
	n, err := r.r.Read(p)
	r.t.passed()
	return n, err
}

type transferWriter struct {
	t *transfer
	w io.Writer
}

func (w transferWriter) Write(p []byte) (int, error) {
	w.t.timer.Stop()
	n, err := w.w.Write(p)
	w.t.passed()
	return n, err
}
