package protocol

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// paceBytes is sent between two round trips to the server. It keeps what
	// is pending below the 16 MB from which a subscriber may be cut off (the
	// server's max_pending is 64 MB); paced so, 80 MB to 8 subscribers took
	// 1.06 s, unpaced 1.29 s.
	paceBytes = 8 << 20
	// keptVersions are served to late joiners. One in the making, one before
	// it for those who are still fetching.
	keptVersions = 2
	// subscriberPending is how much a subscriber may be behind.
	subscriberPending = 256 << 20
	// fetchWindow frames are asked for at once: 2 MB on the way.
	fetchWindow = 4

	paramQueue     = "params"
	requestTimeout = 5 * time.Second
	// lossWait is how long an unfinished version may lack a frame before the
	// missing ones are asked for.
	lossWait = 500 * time.Millisecond
	// pollWait is how long a subscriber hears nothing before it asks for the
	// newest version: it may have been away during a broadcast.
	pollWait = 5 * time.Second
)

// Broadcaster sends a leader's parameters to all subscribers and serves them to
// those who missed some, while it holds the lease.
type Broadcaster struct {
	bus   *Bus
	lease *Lease
	sub   *nats.Subscription

	mu   sync.Mutex
	kept [][]ParamFrame // newest last
}

// NewBroadcaster starts serving. Close it when done.
func (l *Lease) NewBroadcaster() (*Broadcaster, error) {
	b := l.bus
	c := &Broadcaster{bus: b, lease: l}
	var err error
	c.sub, err = b.nc.QueueSubscribe(paramGetSubject(b.cfg.Run), paramQueue, c.serve)
	if err != nil {
		return nil, fmt.Errorf("serve parameters: %w", b.cause(err))
	}
	return c, nil
}

// Publish broadcasts a blob, which must not be changed any more. The version
// must be higher than the one before. A connection that breaks, or a lease that is
// renewed late, is no error: the blob is kept, and subscribers fetch it when they
// find out. Once another learner leads, the error wraps ErrLeaseLost.
func (c *Broadcaster) Publish(ctx context.Context, version uint64, blob []byte) error {
	if err := c.lease.check(); err != nil {
		return fmt.Errorf("broadcast parameters %d: %w", version, err)
	}
	frames, err := SplitParams(ParamID{c.lease.epoch, version}, blob)
	if err != nil {
		return fmt.Errorf("broadcast parameters %d: %w", version, err)
	}
	if err := c.keep(frames); err != nil {
		return fmt.Errorf("broadcast parameters %d: %w", version, err)
	}
	if err := c.send(ctx, frames); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.bus.counters.paramSendFailed.Add(1)
		c.bus.log.Warn("broadcasting parameters broke off, subscribers will fetch them", "version", version, "error", err)
		return nil
	}
	c.bus.counters.paramsSent.Add(1)
	return nil
}

func (c *Broadcaster) keep(frames []ParamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.kept); n > 0 && !frames[0].ID.After(c.kept[n-1][0].ID) {
		return fmt.Errorf("version is not above %d, the one before", c.kept[n-1][0].ID.Version)
	}
	c.kept = append(c.kept, frames)
	if len(c.kept) > keptVersions {
		c.kept = append(c.kept[:0:0], c.kept[1:]...)
	}
	return nil
}

func (c *Broadcaster) send(ctx context.Context, frames []ParamFrame) error {
	pending := 0
	for i := range frames {
		if pending += len(frames[i].Data); pending > paceBytes {
			if err := c.flush(ctx); err != nil {
				return err
			}
			pending = 0
		}
		if !c.lease.held() {
			return errLeaseLate
		}
		if err := c.bus.nc.PublishMsg(frames[i].message(paramSubject(c.bus.cfg.Run))); err != nil {
			return err
		}
	}
	return c.flush(ctx)
}

// errLeaseLate says why nothing is sent although no other learner leads yet.
var errLeaseLate = errors.New("the lease has run out and is not renewed yet")

func (c *Broadcaster) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.bus.nc.FlushWithContext(ctx)
}

// serve answers a request for a frame of the version that its headers name or,
// without an index, for the first frame of the newest version if that is after
// the one named.
func (c *Broadcaster) serve(request *nats.Msg) {
	reply := &nats.Msg{Header: nats.Header{headerGone: {"1"}}}
	if frame := c.find(request.Header); frame != nil && c.lease.held() {
		reply = frame.message("")
	}
	if err := request.RespondMsg(reply); err != nil {
		c.bus.log.Warn("reply to a request for parameters", "error", err)
	}
}

func (c *Broadcaster) find(header nats.Header) *ParamFrame {
	epoch, epochErr := strconv.ParseUint(header.Get(headerEpoch), 10, 64)
	version, versionErr := strconv.ParseUint(header.Get(headerVersion), 10, 64)
	if epochErr != nil || versionErr != nil {
		return nil
	}
	id := ParamID{epoch, version}
	c.mu.Lock()
	defer c.mu.Unlock()
	if header.Get(headerIndex) == "" {
		if n := len(c.kept); n > 0 && c.kept[n-1][0].ID.After(id) {
			return &c.kept[n-1][0]
		}
		return nil
	}
	index, err := strconv.ParseUint(header.Get(headerIndex), 10, 31)
	for _, frames := range c.kept {
		if err == nil && frames[0].ID == id && index < uint64(len(frames)) {
			return &frames[index]
		}
	}
	return nil
}

// Close stops serving.
func (c *Broadcaster) Close() error { return c.sub.Unsubscribe() }

// FollowParams hands every newer parameter blob to deliver, verified, the
// newest at the start included, until ctx ends, whose error it returns. Of
// versions that come faster than they can be taken only the newest is
// delivered. Version 0 never comes from a learner that counts from 1. The
// blob belongs to deliver.
func (b *Bus) FollowParams(ctx context.Context, deliver func(version uint64, blob []byte)) error {
	sub, err := b.nc.SubscribeSync(paramSubject(b.cfg.Run))
	if err != nil {
		return fmt.Errorf("follow parameters: %w", b.cause(err))
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	if err := sub.SetPendingLimits(-1, subscriberPending); err != nil {
		return fmt.Errorf("follow parameters: %w", err)
	}
	f := &follower{bus: b, deliver: deliver}
	if err := pause(ctx, b.cfg.Jitter(lossWait)); err != nil {
		return err
	}
	// Who knows of no version yet would take one of a learner that was replaced.
	if lease, _, err := b.readLease(ctx); err == nil {
		f.parts.Skip(lease.Epoch)
	}
	f.fetch(ctx)
	for ctx.Err() == nil {
		msg, err := next(ctx, sub, f.patience())
		switch {
		case err == nil:
			f.take(msg)
		case ctx.Err() != nil:
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			f.fetch(ctx)
		case errors.Is(err, nats.ErrSlowConsumer): // counted by the async handler; what is lost is fetched
		default:
			return fmt.Errorf("follow parameters: %w", b.cause(err))
		}
	}
	return ctx.Err()
}

func next(ctx context.Context, sub *nats.Subscription, patience time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// follower is one subscriber's assembly of parameters.
type follower struct {
	bus     *Bus
	deliver func(version uint64, blob []byte)
	parts   Assembler
	served  bool // a version has been delivered
}

// patience is how long to wait for the next frame before asking.
func (f *follower) patience() time.Duration {
	if _, missing := f.parts.Missing(); len(missing) > 0 || !f.served {
		return lossWait + f.bus.cfg.Jitter(lossWait)
	}
	return pollWait + f.bus.cfg.Jitter(pollWait)
}

// take adds a message's frame and delivers the blob that it completes.
func (f *follower) take(msg *nats.Msg) {
	frame, err := parseFrame(msg.Header.Get, msg.Data)
	var blob []byte
	if err == nil {
		blob, err = f.parts.Add(frame)
	}
	switch {
	case errors.Is(err, errStale):
		f.bus.counters.paramsStale.Add(1)
	case err != nil:
		f.bus.refuse("parameter frame", msg.Subject, msg.Header, msg.Data, err)
	case blob != nil:
		f.bus.counters.paramsReceived.Add(1)
		f.served = true
		f.deliver(frame.ID.Version, blob)
	}
}

// fetch asks for what is missing: first, if no version is in hand, for the
// first frame of a newer one, then for the others, fetchWindow at a time.
func (f *follower) fetch(ctx context.Context) {
	if _, missing := f.parts.Missing(); len(missing) == 0 && !f.accept(f.request(ctx, requestHeader(f.parts.Newest()))) {
		return
	}
	id, missing := f.parts.Missing()
	for len(missing) > 0 {
		n := min(fetchWindow, len(missing))
		if !f.askFor(ctx, id, missing[:n]) {
			return
		}
		missing = missing[n:]
	}
}

// askFor requests some frames at once and takes in the replies.
func (f *follower) askFor(ctx context.Context, id ParamID, indexes []int) bool {
	replies := make(chan *nats.Msg, len(indexes))
	for _, index := range indexes {
		header := requestHeader(id)
		header.Set(headerIndex, strconv.Itoa(index))
		go func() { replies <- f.request(ctx, header) }()
	}
	all := true
	for range indexes {
		all = f.accept(<-replies) && all
	}
	return all
}

func requestHeader(id ParamID) nats.Header {
	return nats.Header{
		headerEpoch:   {strconv.FormatUint(id.Epoch, 10)},
		headerVersion: {strconv.FormatUint(id.Version, 10)},
	}
}

// request returns nil when there is no answer; a later round asks again.
func (f *follower) request(ctx context.Context, header nats.Header) *nats.Msg {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := f.bus.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: paramGetSubject(f.bus.cfg.Run), Header: header})
	if err != nil {
		return nil
	}
	return msg
}

// accept takes in a reply and reports whether it held a frame.
func (f *follower) accept(reply *nats.Msg) bool {
	switch {
	case reply == nil:
		return false
	case reply.Header.Get(headerGone) != "":
		f.parts.Drop() // a newer version is there, the next round starts on it
		return false
	}
	f.bus.counters.paramsFetched.Add(1)
	f.take(reply)
	return true
}
