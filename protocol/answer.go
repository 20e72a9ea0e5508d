package protocol

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answerTimeout bounds the wait for a stream that nobody answers for: a cluster that has
// lost a leader has another one after 4 to 9 seconds.
const answerTimeout = 30 * time.Second

// answerPoll is how long to wait at first before a stream is asked again; twice as long
// each time, up to settleTimeout.
const answerPoll = 20 * time.Millisecond

// canRead and canWrite are requests that a stream answers with a refusal as soon as one can
// read from it, or write to it, at any of its subjects. Neither changes anything.
func canRead(stream, subject string) *nats.Msg {
	return nats.NewMsg("$JS.API.DIRECT.GET." + stream + "." + subject)
}

func canWrite(subject string) *nats.Msg {
	probe := nats.NewMsg(subject)
	probe.Header.Set(jetstream.ExpectedStreamHeader, "none")
	return probe
}

// answered waits until each of the requests is answered. The servers of a cluster tell each
// other who answers for a stream only after it has been made, and nobody answers while they
// elect a leader, so that whoever made it or found it may still get "no responders".
func (b *Bus) answered(ctx context.Context, probes ...*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for _, probe := range probes {
		for wait := answerPoll; ; wait = min(2*wait, settleTimeout) {
			attempt, cancel := context.WithTimeout(ctx, settleTimeout)
			_, err := b.nc.RequestMsgWithContext(attempt, probe)
			cancel()
			if err == nil {
				break
			}
			if !errors.Is(err, nats.ErrNoResponders) && !unsettled(err) {
				return err
			}
			if pauseErr := pause(ctx, wait); pauseErr != nil {
				return fmt.Errorf("no server answers at %s: %w; last: %w", probe.Subject, pauseErr, err)
			}
		}
	}
	return nil
}
