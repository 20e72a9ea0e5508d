package dashboard

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

// Bus is where the dashboard looks; protocol.Bus is one.
type Bus interface {
	AllHeartbeats(ctx context.Context) ([]protocol.Heartbeat, error)
	GetCurves(ctx context.Context, run string) (curves []byte, revision uint64, err error)
	AskView(run, actor string) error
	FollowViews(ctx context.Context, run, actor string, handler func(view []byte)) error
}

// Config says what is shown, and to whom.
type Config struct {
	Bus   Bus
	Token string // of who may look; empty: whoever is on this machine
	Run   string // shown first; may be empty

	Episodes   string // folder with recorded episodes, see view.Extension; may be empty
	Experiment string // folder of an experiment, whose forgetting is shown; may be empty
	// Forecast adds the world model's forecasts to a live clip; nil: none are shown.
	// It is called by one goroutine at a time.
	Forecast func(*view.Clip) error

	Now func() time.Time
	Log hclog.Logger
}

// Server serves a dashboard.
type Server struct {
	cfg     Config
	hub     *hub
	viewers atomic.Int32
	// forecasting holds a token while a clip is forecast.
	forecasting chan struct{}
}

// New makes a server; Serve runs it.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, hub: newHub(), forecasting: make(chan struct{}, 1)}
}

//go:embed page.html
var page []byte

// policy is the page's content security policy: its own script and style by their
// digests, and nothing from anywhere else.
var policy = "default-src 'none'; script-src " + digest("script") + "; style-src " + digest("style") +
	"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// digest is that of what stands in the page between an element's tags.
func digest(element string) string {
	m := regexp.MustCompile(`(?s)<` + element + `>(.*)</` + element + `>`).FindSubmatch(page)
	sum := sha256.Sum256(m[1])
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page) // whoever has gone needs no page
	})
	mux.HandleFunc("GET /api/state", s.state)
	mux.HandleFunc("GET /api/events", s.events)
	mux.HandleFunc("GET /api/view", s.view)
	mux.HandleFunc("GET /api/episode", s.episode)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          s.cfg.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		s.look(ctx)
	}()
	stop := context.AfterFunc(ctx, func() {
		late, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		if server.Shutdown(late) != nil { // somebody does not read
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	cancel()
	<-looking
	if !stop() && errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("dashboard: %w", err)
	}
	return nil
}

// lookTimeout bounds one look at the bus.
const lookTimeout = 5 * time.Second

// fleet is the state of all runs now, with the processes that have just gone.
func (s *Server) fleet(ctx context.Context) (fleet.State, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	beats, err := s.cfg.Bus.AllHeartbeats(ctx)
	if err != nil {
		return fleet.State{}, err
	}
	now := s.cfg.Now()
	return fleet.Of(s.hub.remember(beats, now), now), nil
}

func (s *Server) state(w http.ResponseWriter, r *http.Request) {
	state, err := s.fleet(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	writeJSON(w, state)
}

func writeJSON(w http.ResponseWriter, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}
