package dashboard

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

const (
	// lookInterval is how often the bus is asked while somebody looks; heartbeats
	// come every 3.3 s.
	lookInterval = 2 * time.Second
	// filesInterval is how often the folders are read.
	filesInterval = 20 * time.Second
	// remembered is how long a process that has gone is shown.
	remembered = 10 * time.Minute
)

// event is the newest of its kind.
type event struct {
	name   string
	data   []byte
	number uint64 // rises with every change of any
}

// hub holds the newest of every kind of event for all who look.
type hub struct {
	mu      sync.Mutex
	number  uint64
	events  map[string]event // by kind: the name, or the name and the run
	clients map[chan struct{}]bool
	come    chan struct{} // a token after the first client has come

	beats map[string]protocol.Heartbeat // the last of each process, also of those gone
}

func newHub() *hub {
	return &hub{
		events: map[string]event{}, clients: map[chan struct{}]bool{}, come: make(chan struct{}, 1),
		beats: map[string]protocol.Heartbeat{},
	}
}

// join returns a channel that has a token after each change.
func (h *hub) join() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := make(chan struct{}, 1)
	h.clients[changed] = true
	select {
	case h.come <- struct{}{}:
	default:
	}
	return changed
}

func (h *hub) leave(changed chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, changed)
}

func (h *hub) watched() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.clients)
}

// set replaces the event of a kind and tells all clients, unless it is the same.
func (h *hub) set(kind, name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		name = "trouble"
		data, _ = json.Marshal(err.Error()) // a string has an encoding
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.events[kind]; ok && string(old.data) == string(data) {
		return
	}
	h.number++
	h.events[kind] = event{name, data, h.number}
	for changed := range h.clients {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// after returns the events with higher numbers, in their order.
func (h *hub) after(number uint64) []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []event
	for _, e := range h.events {
		if e.number > number {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(x, y event) int { return int(int64(x.number) - int64(y.number)) })
	return list
}

// remember adds the processes that have gone a short while ago to those that live.
func (h *hub) remember(beats []protocol.Heartbeat, now time.Time) []protocol.Heartbeat {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range beats {
		h.beats[b.Run+"."+string(b.Role)+"."+b.Name] = b
	}
	maps.DeleteFunc(h.beats, func(_ string, b protocol.Heartbeat) bool { return now.Sub(b.Time) > remembered })
	return slices.Collect(maps.Values(h.beats))
}

// look asks the bus and the folders while there are clients, until ctx ends.
func (s *Server) look(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	revisions := map[string]uint64{}
	var files time.Time
	for {
		if s.hub.watched() == 0 {
			select {
			case <-ctx.Done():
				return
			case <-s.hub.come:
			}
		}
		s.lookAtBus(ctx, revisions)
		if now := s.cfg.Now(); now.Sub(files) >= filesInterval {
			files = now
			s.lookAtFiles()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *Server) lookAtBus(ctx context.Context, revisions map[string]uint64) {
	state, err := s.fleet(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.hub.set("trouble", "trouble", "the bus does not answer: "+err.Error())
		}
		return
	}
	s.hub.set("state", "state", struct {
		Show string `json:"show"`
		Live bool   `json:"live"`
		Fore bool   `json:"forecasts"`
		Any  any    `json:"state"`
	}{s.cfg.Run, true, s.cfg.Forecast != nil, state})
	trouble := ""
	for _, run := range state.Runs {
		if err := s.lookAtCurves(ctx, run.Name, revisions); err != nil && ctx.Err() == nil {
			trouble = "curves of run " + run.Name + ": " + err.Error()
		}
	}
	s.hub.set("trouble", "trouble", trouble)
}

func (s *Server) lookAtCurves(ctx context.Context, run string, revisions map[string]uint64) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	data, revision, err := s.cfg.Bus.GetCurves(ctx, run)
	if err != nil || data == nil || revision == revisions[run] {
		return err
	}
	curves, err := monitor.ParseCurves(data)
	if err != nil {
		return err
	}
	revisions[run] = revision
	s.hub.set("curves "+run, "curves", struct {
		Run string `json:"run"`
		monitor.Curves
	}{run, curves})
	return nil
}
