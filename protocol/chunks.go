package protocol

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrFull says that the trajectory stream has reached its bound: the replay
// is behind. Back off and send again.
var ErrFull = errors.New("the trajectory stream is full")

// streamStoreFailed is the server's error code for a message its stream would
// not store, as with discard new at the bound.
const streamStoreFailed = 10077

// PublishChunk sends a chunk to the trajectory stream. It blocks while 32
// chunks await their acknowledgement. When it returns nil, done is called
// exactly once, from another goroutine, with the outcome for the chunk
// numbered seq: nil once the stream has stored it. After an error, returned
// or told to done, the chunk may be sent again; the stream drops what it has
// stored already. Errors wrap ErrDisconnected, ErrFull, ErrTooLarge or
// ErrCorrupt where one of these is the cause.
func (b *Bus) PublishChunk(ctx context.Context, c *Chunk, done func(seq uint64, err error)) error {
	buffer := b.buffers.Get().(*[]byte)
	data, err := c.AppendTo((*buffer)[:0])
	if err != nil {
		return err
	}
	*buffer = data
	if c.Run != b.cfg.Run {
		return fmt.Errorf("chunk of run %s on the bus of run %s: %w", c.Run, b.cfg.Run, ErrCorrupt)
	}
	if err := b.fits("chunk", len(data)); err != nil {
		return err
	}
	select {
	case b.inFlight <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.ctx.Done():
		return ErrDisconnected
	}
	future, err := b.js.PublishMsgAsync(&nats.Msg{Subject: b.chunkSubject(c.Actor), Data: data},
		jetstream.WithMsgID(c.MessageID()), jetstream.WithExpectStream(streamTraj))
	if err != nil {
		<-b.inFlight
		b.counters.publishFailed.Add(1)
		return fmt.Errorf("publish chunk %s: %w", c.MessageID(), b.cause(err))
	}
	id, seq := c.MessageID(), c.Seq
	started := b.start(func() {
		err := b.await(future)
		<-b.inFlight
		if err == nil {
			// After an error the library may still have an attempt scheduled,
			// which would send whatever is in the buffer then.
			b.buffers.Put(buffer)
		} else {
			b.counters.publishFailed.Add(1)
			err = fmt.Errorf("publish chunk %s: %w", id, err)
		}
		done(seq, err)
	})
	if !started {
		<-b.inFlight
		return ErrDisconnected
	}
	return nil
}

// await waits for a future, which ends by itself after publishTimeout.
func (b *Bus) await(future jetstream.PubAckFuture) error {
	select {
	case ack := <-future.Ok():
		b.counters.published.Add(1)
		if ack.Duplicate {
			b.counters.duplicates.Add(1)
		}
		return nil
	case err := <-future.Err():
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == streamStoreFailed {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		return b.cause(err)
	case <-b.ctx.Done():
		return ErrDisconnected
	}
}

// ChunkMsg is a chunk delivered from the trajectory stream. Exactly one of
// Ack, Nak and Reject settles it; unsettled it comes again after AckWait. They
// may be called from any goroutine, after ConsumeChunks has gone on.
type ChunkMsg struct {
	Chunk   *Chunk // nil after Release
	Pending uint64 // chunks of the run that waited behind this one when it was sent

	bus *Bus
	msg jetstream.Msg
}

// Ack says that the chunk is on disk. The acknowledgement itself may get lost
// and the chunk come again: inserting must be idempotent.
func (m *ChunkMsg) Ack() error { return m.msg.Ack() }

// Nak asks for the chunk again, after delay.
func (m *ChunkMsg) Nak(delay time.Duration) error { return m.msg.NakWithDelay(delay) }

// Reject puts the chunk into the dead-letter stream, counted by Reason(why).
// It is for a chunk that decodes but does not fit, in its widths for example.
func (m *ChunkMsg) Reject(ctx context.Context, why error) { m.bus.deadLetter(ctx, m.msg, why) }

// Release gives the chunk's memory back, for another one to be decoded into: a
// new one's would have to be filled with zeros first. It is for whoever is
// done with the chunk and has given it to nobody else; the message can still be
// settled. Without it the chunk is the handler's for good.
func (m *ChunkMsg) Release() {
	m.bus.chunks.Put(m.Chunk)
	m.Chunk = nil
}

const (
	// fetchBatch and fetchWait bound one pull. The next is asked for once all
	// of it is in the queue of the handler, which has room for as many: so
	// the server and the handler seldom wait for each other, while a handler
	// that blocks holds up the pulls and nothing overflows. A pull is not
	// broken off, since what the server has sent by then would be missing
	// until AckWait; so fetchWait is also how long an end may take.
	fetchBatch = 32
	fetchWait  = time.Second
	// retryWait spaces attempts at what the server does not answer yet.
	retryWait = 250 * time.Millisecond
)

// ConsumeChunks hands the run's chunks to handler, one at a time, until ctx
// ends, whose error it returns. A blocking handler holds back delivery. It
// survives lost connections, a server that comes up later, and one that has lost its
// store: it makes the streams again, with the bounds that they had. A message that
// cannot be decoded is counted by reason, put into the dead-letter stream and
// skipped.
func (b *Bus) ConsumeChunks(ctx context.Context, handler func(*ChunkMsg)) error {
	for ctx.Err() == nil {
		if err := b.consume(ctx, handler); ctx.Err() == nil {
			b.log.Warn("consuming chunks broke off, trying again", "error", err)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				b.log.Error("the servers have lost their store: what was acknowledged and not yet taken is gone, making the streams again")
				if err := b.ensure(ctx, b.bounded()); err != nil {
					b.log.Error("streams could not be made", "error", err)
				}
			}
			_ = pause(ctx, retryWait) // ctx is looked at above
		}
	}
	return ctx.Err()
}

func (b *Bus) consume(ctx context.Context, handler func(*ChunkMsg)) error {
	name, subjects := b.consumer()
	want := jetstream.ConsumerConfig{
		Durable:       name,
		Description:   "the replay of run " + b.cfg.Run,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       b.cfg.AckWait,
		MaxAckPending: maxAckPending,
		MaxDeliver:    -1,
	}
	if want.FilterSubject = subjects[0]; len(subjects) > 1 {
		want.FilterSubject, want.FilterSubjects = "", subjects
	}
	consumer, err := b.js.CreateOrUpdateConsumer(ctx, streamTraj, want)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", want.Durable, err)
	}
	queue := make(chan jetstream.Msg, fetchBatch)
	var fetching error
	go func() {
		defer close(queue)
		for fetching == nil {
			fetching = fetch(ctx, consumer, queue)
		}
	}()
	for msg := range queue {
		if ctx.Err() == nil {
			b.deliver(ctx, msg, handler)
		} else if err := giveBack(msg); err != nil {
			b.log.Debug("a chunk was not given back, it comes again later", "error", err)
		}
	}
	return fetching
}

// fetch asks for one pull and puts it into the queue.
func fetch(ctx context.Context, consumer jetstream.Consumer, queue chan<- jetstream.Msg) error {
	batch, err := consumer.Fetch(fetchBatch, jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		queue <- msg // it is read until it is closed
	}
	if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	return ctx.Err()
}

// giveBack lets the next consumer have soon what was delivered and is not
// taken, and what is left of this one's pull not again.
func giveBack(msg jetstream.Msg) error { return msg.NakWithDelay(fetchWait) }

func (b *Bus) deliver(ctx context.Context, msg jetstream.Msg, handler func(*ChunkMsg)) {
	chunk := b.chunks.Get().(*Chunk)
	err := decodeChunk(chunk, msg.Data(), Limits{})
	if err == nil && msg.Subject() != b.chunkSubject(chunk.Actor) && msg.Subject() != trajSubject(chunk.Run, chunk.Actor) {
		err = fmt.Errorf("chunk of actor %s of run %s on subject %s: %w", chunk.Actor, chunk.Run, msg.Subject(), ErrCorrupt)
	}
	if err != nil {
		b.deadLetter(ctx, msg, err)
		return
	}
	b.counters.consumed.Add(1)
	m := &ChunkMsg{Chunk: chunk, bus: b, msg: msg}
	if meta, err := msg.Metadata(); err == nil {
		m.Pending = meta.NumPending
		if meta.NumDelivered > 1 {
			b.counters.redelivered.Add(1)
		}
	}
	handler(m)
}

// Headers of a message in the dead-letter stream.
const (
	headerReason  = "Df-Reason"
	headerSubject = "Df-Subject"
	headerError   = "Df-Error"

	maxDeadError = 1 << 10
)

// deadLetter keeps the message in DEAD and then takes it off the work queue.
// Where it cannot be kept it stays on the queue and comes again.
func (b *Bus) deadLetter(ctx context.Context, msg jetstream.Msg, why error) {
	reason := reasonIndex(why)
	dead := b.deadMsg(msg.Subject(), msg.Headers(), msg.Data(), why)
	var opts []jetstream.PublishOpt
	if meta, err := msg.Metadata(); err == nil { // so that a second delivery is not kept twice
		opts = append(opts, jetstream.WithMsgID(fmt.Sprintf("%s-%d", meta.Stream, meta.Sequence.Stream)))
	}
	_, err := b.js.PublishMsg(ctx, dead, opts...)
	if err == nil {
		err = msg.TermWithReason(reasons[reason])
	}
	if err != nil {
		b.counters.deadLetterLost.Add(1)
		b.log.Warn("a bad message could not be dead-lettered, it will come again", "subject", msg.Subject(), "error", err)
		return
	}
	b.counters.deadLettered[reason].Add(1)
	b.log.Warn("bad message dead-lettered", "subject", msg.Subject(), "reason", reasons[reason], "error", why)
}

// deadMsg is a message as it goes to the dead-letter stream.
func (b *Bus) deadMsg(subject string, header nats.Header, data []byte, why error) *nats.Msg {
	if room := b.nc.MaxPayload() - headerRoom; int64(len(data)) > room {
		data = data[:max(0, room)]
	}
	dead := &nats.Msg{Subject: deadSubject(b.cfg.Run), Data: data, Header: nats.Header{}}
	for key, values := range header {
		if strings.HasPrefix(key, "Df-") { // the server's own would have an effect
			dead.Header[key] = values
		}
	}
	dead.Header.Set(headerReason, Reason(why))
	dead.Header.Set(headerSubject, subject)
	dead.Header.Set(headerError, headerText(why.Error()))
	return dead
}

// refusedKept is how often a process keeps a message that it refuses: a learner
// whose parameters are bad sends them to a thousand actors.
const refusedKept = 10 * time.Second

// refuse counts a message of no stream that cannot be decoded, and keeps it, now
// and again, in DEAD. It is skipped either way, so that nobody waits for that.
func (b *Bus) refuse(what, subject string, header nats.Header, data []byte, why error) {
	b.counters.refused[reasonIndex(why)].Add(1)
	b.log.Warn(what+" refused", "subject", subject, "reason", Reason(why), "error", why)
	if b.cfg.Role == RoleActor {
		// All actors refuse the same message: a thousand of them would fill DEAD
		// with it, and so may none of them write there.
		return
	}
	b.mu.Lock()
	now := time.Now()
	keep := now.Sub(b.refusedAt) >= refusedKept
	if keep {
		b.refusedAt = now
	}
	b.mu.Unlock()
	if !keep {
		return
	}
	if err := b.nc.PublishMsg(b.deadMsg(subject, header, data, why)); err != nil {
		b.counters.deadLetterLost.Add(1)
		b.log.Debug("a refused message was not kept", "error", err)
	}
}

// headerText makes s fit for a header line.
func headerText(s string) string {
	clean := []byte(s[:min(len(s), maxDeadError)])
	for i, c := range clean {
		if c < ' ' || c > '~' {
			clean[i] = '?'
		}
	}
	return string(clean)
}
