package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

const (
	// maxClients look at the same time, more than a group has.
	maxClients = 64
	// maxViewers look at running actors at the same time.
	maxViewers = 8
	// aliveInterval is how often a line is sent that says nothing, so that who has
	// gone is found out.
	aliveInterval = 15 * time.Second
	// writeTimeout is how long a reader may take for one event.
	writeTimeout = 10 * time.Second
	// askInterval is how often a running actor is asked, well within view.AskedFor.
	askInterval = 2 * time.Second
)

// stream is a response of server-sent events.
type stream struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	return &stream{w, http.NewResponseController(w)}
}

// send writes an event, whose data has no newlines.
func (s *stream) send(name string, data []byte) error {
	return s.write("event: %s\ndata: %s\n\n", name, data)
}

// alive writes a line that readers skip.
func (s *stream) alive() error { return s.write(": alive\n\n") }

func (s *stream) write(format string, args ...any) error {
	if err := s.ctrl.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.ctrl.Flush()
}

// events sends what is newest, at once and at every change.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	if s.hub.watched() >= maxClients {
		http.Error(w, "too many look at the same time", http.StatusServiceUnavailable)
		return
	}
	changed := s.hub.join()
	defer s.hub.leave(changed)
	out := newStream(w)
	if out.alive() != nil {
		return
	}
	ticker := time.NewTicker(aliveInterval)
	defer ticker.Stop()
	for sent := uint64(0); ; {
		for _, e := range s.hub.after(sent) {
			if out.send(e.name, e.data) != nil {
				return
			}
			sent = e.number
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-ticker.C:
			if out.alive() != nil {
				return
			}
		}
	}
}

// view asks a running actor for clips and sends them on with forecasts.
func (s *Server) view(w http.ResponseWriter, r *http.Request) {
	run, actor := r.URL.Query().Get("run"), r.URL.Query().Get("actor")
	if !protocol.ValidName(run) || !protocol.ValidName(actor) {
		http.Error(w, "run and actor must name an actor of a run", http.StatusBadRequest)
		return
	}
	if s.viewers.Add(1) > maxViewers {
		s.viewers.Add(-1)
		http.Error(w, "too many look at actors at the same time", http.StatusServiceUnavailable)
		return
	}
	defer s.viewers.Add(-1)
	out := newStream(w)
	if out.alive() != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	clips := make(chan *view.Clip, 1)
	following.Go(func() {
		defer cancel()
		err := s.cfg.Bus.FollowViews(ctx, run, actor, func(data []byte) {
			clip, err := view.Decode(data)
			if err != nil {
				s.cfg.Log.Warn("view of an actor is refused", "run", run, "actor", actor, "error", err)
				return
			}
			select {
			case clips <- clip:
			default: // the one before is still on its way
			}
		})
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("views of an actor broke off", "run", run, "actor", actor, "error", err)
		}
	})
	ticker := time.NewTicker(askInterval)
	defer ticker.Stop()
	for {
		if err := s.cfg.Bus.AskView(run, actor); err != nil {
			s.cfg.Log.Debug("actor could not be asked", "error", err) // it may be back at the next
		}
		select {
		case <-ctx.Done():
			return
		case clip := <-clips:
			s.forecast(ctx, clip)
			data, err := json.Marshal(clip.Slim())
			if err != nil {
				s.cfg.Log.Warn("view of an actor has no encoding", "error", err)
				continue
			}
			if out.send("clip", data) != nil {
				return
			}
		case <-ticker.C:
			if out.alive() != nil {
				return
			}
		}
	}
}

// forecast adds forecasts where there is a model and it fits.
func (s *Server) forecast(ctx context.Context, clip *view.Clip) {
	if s.cfg.Forecast == nil {
		return
	}
	select {
	case s.forecasting <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-s.forecasting }()
	if err := s.cfg.Forecast(clip); err != nil {
		s.cfg.Log.Debug("view has no forecast", "error", err)
	}
}
