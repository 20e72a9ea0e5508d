package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// maxEvents wait to be told; further ones are counted as lost, and are in the log.
const maxEvents = 256

// alarm tells events: to the log, to the bus and to a webhook.
type alarm struct {
	plan    AlarmPlan
	log     hclog.Logger
	publish func(event []byte) error // to the bus; nil: none
	client  *http.Client
	events  chan Event
	lost    atomic.Uint64 // by the webhook or the bus
	told    atomic.Uint64
}

func newAlarm(plan AlarmPlan, publish func([]byte) error, log hclog.Logger) *alarm {
	return &alarm{plan: plan, log: log, publish: publish, client: &http.Client{Timeout: plan.Timeout}, events: make(chan Event, maxEvents)}
}

// raise never waits.
func (a *alarm) raise(e Event) {
	a.log.Warn("dispatch: "+e.Kind, "guard", e.Hold.Guard, "stream", e.Hold.Stream, "value", e.Hold.Value, "limit", e.Hold.Limit, "until", e.Hold.Until, "note", e.Hold.Note)
	select {
	case a.events <- e:
	default:
		a.lost.Add(1)
	}
}

// run tells events until ctx ends.
func (a *alarm) run(ctx context.Context) {
	defer a.client.CloseIdleConnections()
	for {
		select {
		case e := <-a.events:
			a.tell(ctx, e)
		case <-ctx.Done():
			return
		}
	}
}

func (a *alarm) tell(ctx context.Context, e Event) {
	body, err := json.Marshal(e)
	if err != nil {
		a.log.Error("an event cannot be told", "error", err)
		return
	}
	if a.publish != nil {
		if err := a.publish(body); err != nil {
			a.lost.Add(1)
			a.log.Warn("an event was not published", "error", err)
		}
	}
	if a.plan.Webhook == "" {
		a.told.Add(1)
		return
	}
	wait := 250 * time.Millisecond
	for attempt := 0; ; attempt++ {
		err := a.post(ctx, body)
		switch {
		case err == nil:
			a.told.Add(1)
			return
		case attempt == a.plan.Retries || ctx.Err() != nil:
			a.lost.Add(1)
			a.log.Warn("the webhook was not told of an event", "attempts", attempt+1, "error", err)
			return
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
		}
	}
}

func (a *alarm) post(ctx context.Context, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.plan.Webhook, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection can be used again
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("the webhook answers %s", response.Status)
	}
	return nil
}
