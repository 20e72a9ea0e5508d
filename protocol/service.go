package protocol

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

func dispatchSubject(run, call string) string { return "dispatch." + run + "." + call }
func commandSubject(run, call string) string  { return "dispatch." + run + ".command." + call }
func alarmSubject(run string) string          { return "alarm." + run }

// DispatchCall is one thing that a dispatcher can be asked on the bus.
type DispatchCall struct {
	Name    string
	Command bool // by an operator alone
	Do      func(ctx context.Context, body []byte) ([]byte, error)
}

const (
	// dispatchCalls bounds the requests that are answered at once; further ones are
	// told to come again.
	dispatchCalls = 1024
	// aloneWait is how long another dispatcher of the run may take to answer.
	aloneWait = 500 * time.Millisecond
)

// ErrTaken: another process does already what only one may.
var ErrTaken = errors.New("another process does that already")

// ServeDispatch answers calls on dispatch.RUN.NAME, and commands on
// dispatch.RUN.command.NAME, until ctx ends, whose error it returns. The service is
// listed under the name dispatch on $SRV, with its counts. code gives an error's code
// and text. Queues and memories are one process's, so a second dispatcher of the run is
// an error that wraps ErrTaken.
func (b *Bus) ServeDispatch(ctx context.Context, calls []DispatchCall, code func(error) (string, string)) error {
	asked, cancel := context.WithTimeout(ctx, aloneWait)
	_, err := b.nc.RequestWithContext(asked, dispatchSubject(b.cfg.Run, "status"), nil)
	cancel()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return fmt.Errorf("serve dispatch of run %s: %w", b.cfg.Run, ErrTaken)
	case !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("serve dispatch: %w", b.cause(err))
	}
	service, err := micro.AddService(b.nc, micro.Config{
		Name: "dispatch", Version: "1.0.0", Description: "which server a job of run " + b.cfg.Run + " shall go to",
		Metadata: map[string]string{"run": b.cfg.Run},
	})
	if err != nil {
		return fmt.Errorf("serve dispatch: %w", b.cause(err))
	}
	var under sync.WaitGroup
	free := make(chan struct{}, dispatchCalls)
	for _, call := range calls {
		subject := dispatchSubject(b.cfg.Run, call.Name)
		if call.Command {
			subject = commandSubject(b.cfg.Run, call.Name)
		}
		handler := micro.HandlerFunc(func(request micro.Request) {
			select {
			case free <- struct{}{}:
			default:
				_ = request.Error(codeWait, "too many requests at once", nil) // an answer that is lost is asked for again
				return
			}
			under.Go(func() {
				defer func() { <-free }()
				answer, err := call.Do(ctx, request.Data())
				if err == nil {
					err = request.Respond(answer)
				} else {
					c, text := code(err)
					err = request.Error(c, headerText(text), nil)
				}
				if err != nil {
					b.log.Warn("an answer of the dispatcher is lost", "call", call.Name, "error", err)
				}
			})
		})
		if err = service.AddEndpoint(call.Name, handler, micro.WithEndpointSubject(subject)); err != nil {
			break
		}
	}
	if err == nil {
		<-ctx.Done()
	}
	stopErr := service.Stop()
	under.Wait()
	if ctx.Err() != nil {
		return ctx.Err() // stopping fails only on a connection already closed
	}
	return fmt.Errorf("serve dispatch: %w", errors.Join(err, stopErr))
}

// CallDispatch asks the run's dispatcher. An error that it answers with has its text.
func (b *Bus) CallDispatch(ctx context.Context, call string, command bool, body []byte) ([]byte, error) {
	subject := dispatchSubject(b.cfg.Run, call)
	if command {
		subject = commandSubject(b.cfg.Run, call)
	}
	reply, err := b.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Data: body})
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("no dispatcher of run %s is there", b.cfg.Run)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the dispatcher: %w", b.cause(err))
	}
	if text := reply.Header.Get(micro.ErrorHeader); text != "" {
		return nil, fmt.Errorf("the dispatcher answers %.1024s", strings.TrimSpace(text))
	}
	return reply.Data, nil
}

// PublishAlarm tells an event of the run's dispatcher to whoever follows alarm.RUN.
func (b *Bus) PublishAlarm(event []byte) error {
	err := b.fits("event", len(event))
	if err == nil {
		err = b.nc.Publish(alarmSubject(b.cfg.Run), event)
	}
	if err != nil {
		return fmt.Errorf("publish an event: %w", b.cause(err))
	}
	return nil
}

// FollowAlarms hands the events of the run's dispatcher to handler until ctx ends,
// whose error it returns.
func (b *Bus) FollowAlarms(ctx context.Context, handler func(event []byte)) error {
	return b.follow(ctx, alarmSubject(b.cfg.Run), func(msg *nats.Msg) { handler(msg.Data) })
}
