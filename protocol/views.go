package protocol

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// MaxView is the largest view in bytes.
const MaxView = 2 << 20

func lookSubject(run, actor string) string { return "look." + run + "." + actor }
func viewSubject(run, actor string) string { return "view." + run + "." + actor }

// AskView asks an actor of a run to send views for the next few seconds. Nobody
// answers but by sending them.
func (b *Bus) AskView(run, actor string) error {
	if err := errors.Join(checkName("run", run), checkName("actor", actor)); err != nil {
		return fmt.Errorf("ask for a view: %w", err)
	}
	if err := b.nc.Publish(lookSubject(run, actor), nil); err != nil {
		return fmt.Errorf("ask for a view: %w", b.cause(err))
	}
	return nil
}

// FollowLooks tells handler of each actor of the run that is asked for a view,
// until ctx ends, whose error it returns.
func (b *Bus) FollowLooks(ctx context.Context, handler func(actor string)) error {
	return b.follow(ctx, lookSubject(b.cfg.Run, "*"), func(msg *nats.Msg) {
		handler(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	})
}

// PublishView sends a view of an actor to whoever looks. It is dropped where
// nobody does.
func (b *Bus) PublishView(actor string, view []byte) error {
	if len(view) > MaxView {
		return fmt.Errorf("view of %d bytes, at most %d: %w", len(view), MaxView, ErrTooLarge)
	}
	err := b.fits("view", len(view))
	if err == nil {
		err = b.nc.Publish(viewSubject(b.cfg.Run, actor), view)
	}
	if err != nil {
		return fmt.Errorf("publish a view: %w", b.cause(err))
	}
	return nil
}

// FollowViews hands the views of an actor of a run to handler until ctx ends, whose
// error it returns. A view is opaque here; handler must not keep it.
func (b *Bus) FollowViews(ctx context.Context, run, actor string, handler func(view []byte)) error {
	if err := errors.Join(checkName("run", run), checkName("actor", actor)); err != nil {
		return fmt.Errorf("follow views: %w", err)
	}
	return b.follow(ctx, viewSubject(run, actor), func(msg *nats.Msg) {
		if len(msg.Data) <= MaxView {
			handler(msg.Data)
		}
	})
}

// follow hands the messages of a core subject to handler until ctx ends.
func (b *Bus) follow(ctx context.Context, subject string, handler func(*nats.Msg)) error {
	sub, err := b.nc.SubscribeSync(subject)
	if err != nil {
		return fmt.Errorf("follow %s: %w", subject, b.cause(err))
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, nats.ErrSlowConsumer): // only the newest matters
			continue
		case err != nil:
			return fmt.Errorf("follow %s: %w", subject, b.cause(err))
		}
		handler(msg)
	}
}
