package protocol

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Sampler is the replay's side of the sample service.
type Sampler interface {
	// Sample fills dst. It may block, on the rate limiter for example, until
	// ctx ends, and then returns ctx's error.
	Sample(ctx context.Context, dst *Batch, size, length int) error
	// Refresh writes context rows back, those whose slots were not reused.
	Refresh(r *Refresh) (applied int, err error)
}

const (
	// sampleWait is how long the replay holds a request that it can not
	// answer yet. Then the learner asks again, so that a request does not
	// outlive either side by long.
	sampleWait = 2 * time.Second
	// sampleWorkers bounds the requests served at once, and so the batches in
	// memory. Further ones are told to come again.
	sampleWorkers = 4

	// Codes of service errors.
	codeBadRequest = "400"
	codeTooLarge   = "413"
	codeFailed     = "500"
	codeWait       = "503"
)

// ServeSamples answers sample and refresh requests from s, until ctx ends,
// whose error it returns. The service is listed under the name replay on
// $SRV.
func (b *Bus) ServeSamples(ctx context.Context, s Sampler) error {
	server := &sampleServer{bus: b, ctx: ctx, sampler: s, free: make(chan *Batch, sampleWorkers)}
	for range sampleWorkers {
		server.free <- &Batch{}
	}
	service, err := micro.AddService(b.nc, micro.Config{
		Name: "replay", Version: "1.0.0", Description: "batches of sequences for the learner of run " + b.cfg.Run,
	})
	if err != nil {
		return fmt.Errorf("serve samples: %w", b.cause(err))
	}
	err = errors.Join(
		service.AddEndpoint("get", micro.HandlerFunc(server.get), micro.WithEndpointSubject(b.sharded("batch", int(b.shard.Load()), ".get"))),
		service.AddEndpoint("refresh", micro.HandlerFunc(server.refresh), micro.WithEndpointSubject(b.sharded("batch", int(b.shard.Load()), ".refresh"))))
	if err == nil {
		<-ctx.Done()
		err = ctx.Err()
	}
	stopErr := service.Stop()
	server.workers.Wait()
	if ctx.Err() != nil {
		return ctx.Err() // stopping fails only on a connection already closed
	}
	return fmt.Errorf("serve samples: %w", errors.Join(err, stopErr))
}

type sampleServer struct {
	bus     *Bus
	ctx     context.Context
	sampler Sampler
	free    chan *Batch // a batch for every worker
	workers sync.WaitGroup
}

func (s *sampleServer) get(request micro.Request) {
	want, err := DecodeSampleRequest(request.Data(), Limits{})
	if err != nil {
		s.bus.refuse("sample request", request.Subject(), nil, request.Data(), err)
		s.refuse(request, codeBadRequest, err)
		return
	}
	select {
	case batch := <-s.free:
		s.workers.Go(func() {
			s.sample(request, want, batch)
			s.free <- batch
		})
	default:
		s.wait(request)
	}
}

func (s *sampleServer) sample(request micro.Request, want SampleRequest, batch *Batch) {
	ctx, cancel := context.WithTimeout(s.ctx, sampleWait)
	defer cancel()
	err := s.sampler.Sample(ctx, batch, want.Size, want.Length)
	if err != nil && ctx.Err() != nil {
		s.wait(request)
		return
	}
	if err != nil {
		s.refuse(request, codeFailed, err)
		return
	}
	data, err := batch.AppendTo(nil)
	if err == nil {
		err = s.bus.fits("batch", len(data))
	}
	switch {
	case errors.Is(err, ErrTooLarge):
		s.refuse(request, codeTooLarge, err)
	case err != nil:
		s.refuse(request, codeFailed, err)
	default:
		s.bus.counters.samples.Add(1)
		s.respond(request, data)
	}
}

func (s *sampleServer) refresh(request micro.Request) {
	r, err := DecodeRefresh(request.Data(), Limits{})
	if err != nil {
		s.bus.refuse("refresh", request.Subject(), nil, request.Data(), err)
		s.refuse(request, codeBadRequest, err)
		return
	}
	if _, err := s.sampler.Refresh(r); err != nil {
		s.refuse(request, codeFailed, err)
		return
	}
	s.respond(request, nil)
}

func (s *sampleServer) respond(request micro.Request, data []byte) {
	if err := request.Respond(data); err != nil {
		s.bus.log.Warn("reply to the learner is lost", "error", err)
	}
}

func (s *sampleServer) wait(request micro.Request) {
	s.bus.counters.sampleWaits.Add(1)
	s.refuse(request, codeWait, errors.New("not yet"))
}

func (s *sampleServer) refuse(request micro.Request, code string, why error) {
	if code != codeWait {
		s.bus.log.Warn("learner's request failed", "code", code, "error", why)
	}
	if err := request.Error(code, headerText(why.Error()), nil); err != nil {
		s.bus.log.Warn("reply to the learner is lost", "error", err)
	}
}

// BatchShape is the shape that a learner expects of its batches: Size sequences
// of Length steps, and what the environment and the model give them.
type BatchShape struct{ Size, Length, ObsLen, Actions, ContextLen int }

// RemoteReplay is the learner's side of the sample service: batches of one
// shape from a replay elsewhere, or from its shards.
type RemoteReplay struct {
	bus     *Bus
	shape   BatchShape
	request []byte
	shards  *shardedReplay // nil: the run has one replay
}

// RemoteReplay returns a source of batches.
func (b *Bus) RemoteReplay(shape BatchShape) (*RemoteReplay, error) {
	request, err := SampleRequest{Size: shape.Size, Length: shape.Length}.AppendTo(nil)
	if err != nil {
		return nil, err
	}
	r := &RemoteReplay{bus: b, shape: shape, request: request}
	if b.divided() {
		r.shards, err = b.shardedReplay(shape)
	}
	return r, err
}

// Sample fills dst, whose memory it reuses. It waits, for the rate limiter as
// for a replay that is not up yet, until ctx ends. A batch that arrives damaged
// or in another shape, from a replay that has yet to take in the run's new
// configuration, is counted, and another one asked for. Other errors last: a batch larger than
// the server's max_payload (ErrTooLarge) or of another program's version
// (ErrVersion), or the replay's own.
func (r *RemoteReplay) Sample(ctx context.Context, dst *Batch) error {
	if r.shards != nil {
		return r.shards.sample(ctx, dst)
	}
	for {
		reply, err := r.bus.ask(ctx, sampleSubject(r.bus.cfg.Run), r.request)
		if err != nil {
			return fmt.Errorf("sample: %w", err)
		}
		err = DecodeBatch(dst, reply, Limits{})
		if got := (BatchShape{dst.Size, dst.Length, dst.ObsLen, dst.Actions, dst.ContextLen}); err == nil && got != r.shape {
			err = fmt.Errorf("batch is %+v and %+v is wanted: the replay has another configuration of the run", got, r.shape)
		}
		if err == nil {
			r.bus.counters.samples.Add(1)
			return nil
		}
		if errors.Is(err, ErrVersion) {
			return fmt.Errorf("sample: %w", err)
		}
		r.bus.refuse("batch", sampleSubject(r.bus.cfg.Run), nil, reply, err)
		if err := pause(ctx, retryWait); err != nil {
			return fmt.Errorf("sample: %w", err)
		}
	}
}

// Refresh sends recomputed context rows back and waits until they are taken.
func (r *RemoteReplay) Refresh(ctx context.Context, refresh *Refresh) error {
	if r.shards != nil {
		return r.shards.refresh(ctx, refresh)
	}
	data, err := refresh.AppendTo(nil)
	if err != nil {
		return err
	}
	if err := r.bus.fits("refresh", len(data)); err != nil {
		return err
	}
	if _, err := r.bus.ask(ctx, refreshSubject(r.bus.cfg.Run), data); err != nil {
		return fmt.Errorf("refresh: %w", err)
	}
	return nil
}

// ask repeats a request until it is answered.
func (b *Bus) ask(ctx context.Context, subject string, data []byte) ([]byte, error) {
	for {
		reply, again, err := b.askAgain(ctx, subject, data)
		if !again {
			return reply, err
		}
		if pauseErr := pause(ctx, retryWait); pauseErr != nil {
			return nil, fmt.Errorf("%w; last: %w", pauseErr, b.cause(err))
		}
	}
}

// askAgain makes a request and reports whether to ask again later: there is no answer,
// or the answer is not yet.
func (b *Bus) askAgain(ctx context.Context, subject string, data []byte) (reply []byte, again bool, err error) {
	msg, err := b.askOnce(ctx, subject, data)
	if err == nil {
		code, text := msg.Header.Get(micro.ErrorCodeHeader), msg.Header.Get(micro.ErrorHeader)
		switch code {
		case "":
			return msg.Data, false, nil
		case codeWait:
			err = errors.New(text)
		case codeTooLarge:
			return nil, false, fmt.Errorf("the replay answers %.1024q: %w", text, ErrTooLarge)
		default:
			return nil, false, fmt.Errorf("the replay answers %.8q: %.1024q", code, text)
		}
	}
	b.counters.sampleWaits.Add(1)
	return nil, true, err
}

func (b *Bus) askOnce(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleWait+requestTimeout)
	defer cancel()
	return b.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: data})
}
