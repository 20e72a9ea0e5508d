package protocol

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

	// Single frames are served to as many subscribers within a rescueWindow: else a
	// thousand actors that start at once, or that hear a slow broadcast late, would
	// each fetch all of it through the learner's connection, ask again when that takes
	// too long, and never have done: of a thousand on two busy cores 334 had 1.5 MB
	// after a minute. Instead the newest version is then broadcast once more, to all.
	rescueSubscribers = 16
	rescueWindow      = time.Second
	// slowFlush is a round trip so long that the server is busy with what it was given:
	// 512 KB to a thousand subscribers take it half a second and more. Meanwhile it
	// reads nothing, and a connection that has written more than fits into the
	// sockets' buffers breaks off after a second (see Connect).
	slowFlush = 50 * time.Millisecond
	// flushTimeout is longer than any such round trip that was seen: 5 to 8 s, of a
	// thousand subscribers on two cores that others kept busy.
	flushTimeout = 30 * time.Second
)

// Broadcaster sends a leader's parameters to all subscribers and serves them to
// those who missed some, while it holds the lease.
type Broadcaster struct {
	bus   *Bus
	lease *Lease
	sub   *nats.Subscription

	sending sync.Mutex // held while a version goes out; guards pace
	pace    int        // bytes between two round trips

	mu       sync.Mutex
	kept     [][]ParamFrame  // newest last
	since    time.Time       // when the present rescueWindow began
	asking   map[string]bool // subscribers that have asked within it
	late     int             // requests put off since a rescue last looked
	rescuing bool            // somebody looks whether the newest version has to go out again
}

// NewBroadcaster starts serving. Close it when done.
func (l *Lease) NewBroadcaster() (*Broadcaster, error) {
	b := l.bus
	c := &Broadcaster{bus: b, lease: l, pace: FrameBytes, asking: map[string]bool{}}
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
	c.sending.Lock()
	err = c.send(ctx, frames)
	c.sending.Unlock()
	if err != nil {
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
		if pending += len(frames[i].Data); pending > c.pace {
			if err := c.flush(ctx); err != nil {
				return err
			}
			pending = len(frames[i].Data)
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

// flush makes a round trip, and the pace follow how long that takes.
func (c *Broadcaster) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	start := time.Now()
	err := c.bus.nc.FlushWithContext(ctx)
	if time.Since(start) > slowFlush {
		c.pace = FrameBytes
	} else {
		c.pace = min(2*c.pace, paceBytes)
	}
	return err
}

// serve answers a request for a frame of the version that its headers name or,
// without an index, for the first frame of the newest version if that is after
// the one named. While a version goes out, and where many ask, requests are put off:
// what they lack is still on its way to them or will be broadcast once more.
func (c *Broadcaster) serve(request *nats.Msg) {
	frame := c.find(request.Header)
	if frame == nil || !c.lease.held() {
		c.respond(request, &nats.Msg{Header: nats.Header{headerGone: {"1"}}})
		return
	}
	if c.crowded(request.Reply, time.Now()) || !c.sending.TryLock() {
		// Gone stays, for subscribers of before there was Later.
		c.respond(request, &nats.Msg{Header: nats.Header{headerGone: {"1"}, headerLater: {"1"}}})
		return
	}
	defer c.sending.Unlock()
	c.respond(request, frame.message(""))
	if err := c.flush(c.bus.ctx); err != nil {
		c.bus.log.Debug("a frame was served and may be lost", "error", err)
	}
}

func (c *Broadcaster) respond(request, reply *nats.Msg) {
	if err := request.RespondMsg(reply); err != nil {
		c.bus.log.Warn("reply to a request for parameters", "error", err)
	}
}

// crowded notes who asks for a frame and reports whether too many do to serve each;
// if they go on, the newest version is broadcast once more. A subscriber's reply
// subjects begin alike.
func (c *Broadcaster) crowded(reply string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.since) >= rescueWindow {
		c.since = now
		clear(c.asking)
	}
	who := reply[:max(0, strings.LastIndexByte(reply, '.'))]
	if len(c.asking) < rescueSubscribers {
		c.asking[who] = true
	}
	if c.asking[who] {
		return false
	}
	c.late++
	if !c.rescuing {
		c.rescuing = c.bus.start(c.rescue)
	}
	return true
}

// rescue waits until what goes out has gone out and had time to arrive, and where many
// still ask then, broadcasts the newest version again. It ends with the bus.
func (c *Broadcaster) rescue() {
	c.sending.Lock() // for the end of what goes out
	c.mu.Lock()
	c.late = 0
	c.mu.Unlock()
	c.sending.Unlock()
	err := pause(c.bus.ctx, 2*rescueWindow)
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	frames, late := c.kept[len(c.kept)-1], c.late
	c.mu.Unlock()
	if err == nil && late > 0 {
		c.bus.log.Info("many actors lack parameters: they are broadcast once more", "version", frames[0].ID.Version)
		if err = c.send(c.bus.ctx, frames); err == nil {
			c.bus.counters.paramsResent.Add(1)
		}
	}
	if err != nil && c.bus.ctx.Err() == nil {
		c.bus.log.Warn("broadcasting parameters once more broke off", "version", frames[0].ID.Version, "error", err)
	}
	c.mu.Lock()
	c.rescuing = false
	c.mu.Unlock()
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

// Close stops serving. A broadcast that is repeated ends by itself, or with the bus.
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
	vain    int  // fetches in a row that have not brought a version
}

// maxVain bounds how often a subscriber that asks in vain doubles its patience: to
// 8 s, jitter apart.
const maxVain = 4

// patience is how long to wait for the next frame before asking.
func (f *follower) patience() time.Duration {
	if _, missing := f.parts.Missing(); len(missing) > 0 || !f.served {
		wait := lossWait << f.vain
		return wait + f.bus.cfg.Jitter(wait)
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
		f.served, f.vain = true, 0
		f.deliver(frame.ID.Version, blob)
	}
}

// fetch asks for what is missing: first, if no version is in hand, for the
// first frame of a newer one, then for the others, fetchWindow at a time.
func (f *follower) fetch(ctx context.Context) {
	before := f.parts.Newest()
	defer func() {
		if f.parts.Newest() == before {
			f.vain = min(f.vain+1, maxVain)
		}
	}()
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
	case reply.Header.Get(headerLater) != "":
		return false
	case reply.Header.Get(headerGone) != "":
		f.parts.Drop() // a newer version is there, the next round starts on it
		return false
	}
	f.bus.counters.paramsFetched.Add(1)
	f.take(reply)
	return true
}
