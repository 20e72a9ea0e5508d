package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors about the lease.
var (
	// ErrLeaseHeld: another learner leads the run.
	ErrLeaseHeld = errors.New("another learner leads the run")
	// ErrLeaseLost: another learner has taken the run over.
	ErrLeaseLost = errors.New("another learner has taken the run over")
	// ErrFinished: the learner that led has finished the run.
	ErrFinished = errors.New("the learner that led has finished the run")
)

const (
	// leaseTTL is how long a learner leads without renewing its lease, and
	// leaseRenewals how often it tries to meanwhile.
	leaseTTL      = 5 * time.Second
	leaseRenewals = 5
	maxLease      = 1 << 10
)

// Lease is a learner's right to lead its run. There is one at a time: a learner
// takes the next, with a higher epoch, when the one before was released or was not
// renewed for BusConfig.LeaseTTL, and its methods are what only a leader may do.
//
// It is a record under the run's key in bucket cfg that is only ever changed at the
// revision at which it was read, so that of two learners one succeeds, and takes the
// epoch with it. Time is counted by each side's own monotonic clock: a leader stops
// LeaseTTL after it began the last renewal that succeeded, another begins LeaseTTL
// after it saw that. Where a machine was stopped together with its clock, or a
// message was on its way, the epoch decides: whoever receives anything from a
// leader takes nothing of an older epoch.
type Lease struct {
	bus   *Bus
	epoch uint64
	name  string

	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing renews it any more
	lost   chan struct{} // closed when another learner has it

	mu       sync.Mutex
	revision uint64
	until    time.Time // held until then, by the clock here
	next     string    // who has taken it
}

// leaseRecord is the lease as it is stored.
type leaseRecord struct {
	Epoch    uint64 `json:"epoch"`
	Holder   string `json:"holder"`
	Released bool   `json:"released,omitempty"`
	Finished bool   `json:"finished,omitempty"` // released, with nothing left to do
}

func leaseKey(run string) string { return run + ".lease" }

// TakeLease takes the lease of the run, which is then renewed until Release, the
// bus's end or its loss. A lease that nobody renews is taken after LeaseTTL; at once
// on a server embedded in this process, whose learners have ended with it. While
// another learner renews it, the call waits until ctx ends, or returns ErrLeaseHeld
// if it is not to wait. Where that one finishes the run meanwhile, it returns
// ErrFinished: what waited has nothing to do. Whoever comes later takes the lease.
func (b *Bus) TakeLease(ctx context.Context, wait bool) (*Lease, error) {
	l := &Lease{bus: b, name: leaseName(), ended: make(chan struct{}), lost: make(chan struct{})}
	if err := l.take(ctx, wait); err != nil {
		return nil, fmt.Errorf("lease of run %s: %w", b.cfg.Run, err)
	}
	b.log.Info("leading the run", "run", b.cfg.Run, "epoch", l.epoch)
	renewing, cancel := context.WithCancel(b.ctx)
	l.cancel = cancel
	go l.keep(renewing)
	return l, nil
}

// leaseName tells others which process holds the lease.
func leaseName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	return fmt.Sprintf("process %d on %.255s (%08x)", os.Getpid(), host, rand.Uint32())
}

func (l *Lease) take(ctx context.Context, wait bool) error {
	ttl := l.bus.cfg.LeaseTTL
	var seen uint64     // the revision last seen
	var since time.Time // when it was first; zero: count anew
	told := false
	for {
		record, revision, err := l.bus.readLease(ctx)
		now := time.Now()
		switch {
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrTooLarge):
			return err
		case err != nil:
			// While servers can not be asked, the holder can not renew it either.
			l.bus.log.Warn("the run's lease can not be read", "run", l.bus.cfg.Run, "error", err)
			since = time.Time{}
		case record.Finished && seen > 0:
			return fmt.Errorf("%w: %s", ErrFinished, record.Holder)
		case revision == 0 || record.Released || record.Holder == l.name || l.bus.cfg.Server != nil ||
			revision == seen && !since.IsZero() && now.Sub(since) >= ttl:
			// Milliseconds, so that epochs rise even when the servers' store was lost.
			l.epoch = max(record.Epoch+1, uint64(now.UnixMilli()))
			if err = l.write(ctx, revision, leaseRecord{}); err == nil {
				l.until = now.Add(ttl)
				return nil
			}
			l.bus.log.Debug("lease is not taken", "error", err)
			since = time.Time{}
		case revision > seen: // an older one comes from a server that is behind
			if seen > 0 && !wait {
				return fmt.Errorf("%w: %s", ErrLeaseHeld, record.Holder)
			}
			if !told {
				l.bus.log.Info("another learner has led the run: waiting until it is silent", "run", l.bus.cfg.Run, "learner", record.Holder, "for", ttl)
				told = true
			}
			seen, since = revision, now
		case since.IsZero() && revision == seen:
			since = now
		}
		if err := pause(ctx, ttl/(2*leaseRenewals)); err != nil {
			return err
		}
	}
}

// readLease returns the run's lease and its revision, 0 if there has never been one.
func (b *Bus) readLease(ctx context.Context) (record leaseRecord, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.LeaseTTL/2)
	defer cancel()
	kv, err := b.js.KeyValue(ctx, bucketCfg)
	if err != nil {
		return record, 0, b.cause(err)
	}
	entry, err := kv.Get(ctx, leaseKey(b.cfg.Run))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return record, 0, nil
	case err != nil:
		return record, 0, b.cause(err)
	}
	record, err = decodeLease(entry.Value())
	return record, entry.Revision(), err
}

func decodeLease(data []byte) (leaseRecord, error) {
	var r leaseRecord
	if len(data) > maxLease {
		return r, fmt.Errorf("lease of %d bytes, at most %d: %w", len(data), maxLease, ErrTooLarge)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("lease: %w: %w", err, ErrCorrupt)
	}
	if r.Epoch == 0 || r.Epoch > 1<<63 {
		return r, fmt.Errorf("lease has epoch %d: %w", r.Epoch, ErrCorrupt)
	}
	return r, nil
}

// write stores the lease, as ended as the record says, if its revision is still that one.
func (l *Lease) write(ctx context.Context, revision uint64, record leaseRecord) error {
	ctx, cancel := context.WithTimeout(ctx, l.bus.cfg.LeaseTTL/2)
	defer cancel()
	kv, err := l.bus.js.KeyValue(ctx, bucketCfg)
	if err != nil {
		return l.bus.cause(err)
	}
	record.Epoch, record.Holder = l.epoch, l.name
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	revision, err = kv.Update(ctx, leaseKey(l.bus.cfg.Run), data, revision)
	if err != nil {
		return l.bus.cause(err)
	}
	l.mu.Lock()
	l.revision = revision
	l.mu.Unlock()
	return nil
}

// keep renews the lease until ctx ends or another learner has it.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.ended)
	ttl := l.bus.cfg.LeaseTTL
	late := false // the lease has run out
	for pause(ctx, ttl/leaseRenewals) == nil {
		began := time.Now()
		err := l.renew(ctx, leaseRecord{})
		switch {
		case errors.Is(err, ErrLeaseLost):
			l.bus.log.Error("this learner leads no more: nothing that it sends is taken", "run", l.bus.cfg.Run, "error", err)
			close(l.lost)
			return
		case err == nil:
			l.mu.Lock()
			l.until = began.Add(ttl)
			l.mu.Unlock()
			if late {
				l.bus.log.Info("lease is renewed: sending again", "run", l.bus.cfg.Run)
			}
			late = false
		case ctx.Err() == nil && !l.held() && !late:
			l.bus.log.Warn("lease has run out: sending nothing until it is renewed", "run", l.bus.cfg.Run, "error", err)
			late = true
		}
	}
}

// renew writes the lease again, for the last time where it is released. That its revision is another one may be the work of
// a renewal whose answer was lost, or of a learner with a higher epoch.
func (l *Lease) renew(ctx context.Context, as leaseRecord) error {
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	err := l.write(ctx, revision, as)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrNoStreamResponse):
		// The servers have lost their store.
		if err := l.bus.ensure(ctx, l.bus.cfg); err != nil {
			return err
		}
	case !errors.Is(err, jetstream.ErrKeyRevisionMismatch):
		return err
	}
	record, revision, readErr := l.bus.readLease(ctx)
	switch {
	case readErr != nil:
		return readErr
	case record.Epoch > l.epoch:
		l.mu.Lock()
		l.next, l.until = record.Holder, time.Time{}
		l.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrLeaseLost, record.Holder)
	case record.Epoch < l.epoch && revision > 0:
		return err // read from a server that is behind
	}
	return l.write(ctx, revision, as)
}

// held reports whether the learner leads at this moment.
func (l *Lease) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.until)
}

// check returns an error that wraps ErrLeaseLost once another learner leads.
func (l *Lease) check() error {
	select {
	case <-l.lost:
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Errorf("lease of run %s: %w: %s", l.bus.cfg.Run, ErrLeaseLost, l.next)
	default:
		return nil
	}
}

// Await returns an error that wraps ErrLeaseLost when another learner has taken the
// run over, and that of ctx when that ends first.
func (l *Lease) Await(ctx context.Context) error {
	select {
	case <-l.lost:
		return l.check()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Release lets the next learner lead at once. What was to be published must have
// been.
func (l *Lease) Release(ctx context.Context) error {
	return l.release(ctx, leaseRecord{Released: true})
}

// Finish releases the lease of a run that has come to its end: those that wait for it
// are told so. What was to be published must have been.
func (l *Lease) Finish(ctx context.Context) error {
	return l.release(ctx, leaseRecord{Released: true, Finished: true})
}

func (l *Lease) release(ctx context.Context, as leaseRecord) error {
	l.cancel()
	<-l.ended
	if l.check() != nil {
		return nil // it is another's
	}
	l.mu.Lock()
	l.until = time.Time{}
	l.mu.Unlock()
	// The renewal that was given up may have been the server's last word.
	if err := l.renew(ctx, as); err != nil && !errors.Is(err, ErrLeaseLost) {
		return fmt.Errorf("release the lease of run %s, which others wait %v for: %w", l.bus.cfg.Run, l.bus.cfg.LeaseTTL, err)
	}
	return nil
}
