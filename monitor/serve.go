package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// scrapeTimeout is Prometheus's default; scrapes bounds how many are answered at once.
	scrapeTimeout = 10 * time.Second
	scrapes       = 4
	// headerTimeout and writeTimeout bound a request; a profile of 30 s, the usual length, fits.
	headerTimeout = 5 * time.Second
	writeTimeout  = 2 * time.Minute
	maxHeader     = 16 << 10
	// closePatience is how long requests may go on after Close.
	closePatience = time.Second
)

// CheckListen says what is wrong with an address to listen on.
func CheckListen(address string) error {
	host, _, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		return fmt.Errorf("address %q is not host:port, such as 127.0.0.1:9464", address)
	case host == "":
		return fmt.Errorf("address %q has no host: say 127.0.0.1%s for this machine alone, or 0.0.0.0%s for all that reach it", address, address, address)
	}
	return nil
}

func (p *Process) listen(address string) (err error) {
	if err := CheckListen(address); err != nil {
		return err
	}
	p.listener, err = net.Listen("tcp", address)
	return err
}

// serve answers until ctx ends.
func (p *Process) serve(ctx context.Context) {
	server := &http.Server{
		Handler: p.handler(), ReadHeaderTimeout: headerTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: p.cfg.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(p.listener); err != http.ErrServerClosed {
			p.cfg.Log.Error("metrics and health are not served any more", "error", err)
		}
	}()
	<-ctx.Done()
	late, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if server.Shutdown(late) != nil {
		_ = server.Close() // cuts off what was not done in time
	}
	<-done
}

func (p *Process) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { (*p.metrics.Load()).ServeHTTP(w, r) })
	mux.HandleFunc("GET /healthz", p.healthz)
	mux.HandleFunc("GET /readyz", p.readyz)
	mux.Handle("/debug/pprof/", OnLoopback(http.HandlerFunc(pprof.Index)))
	mux.Handle("/debug/pprof/cmdline", OnLoopback(http.HandlerFunc(pprof.Cmdline)))
	mux.Handle("/debug/pprof/profile", OnLoopback(http.HandlerFunc(pprof.Profile)))
	mux.Handle("/debug/pprof/symbol", OnLoopback(http.HandlerFunc(pprof.Symbol)))
	mux.Handle("/debug/pprof/trace", OnLoopback(http.HandlerFunc(pprof.Trace)))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "dreamfleet %s\n\n/metrics\n/healthz\n/readyz\n/debug/pprof/ on this machine alone\n", p.cfg.Role)
	})
	return mux
}

// newMetrics answers with the metrics of a run.
func (p *Process) newMetrics(run string) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(p.exporter.collector(run), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapes, Timeout: scrapeTimeout,
		ErrorLog: p.cfg.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Error}),
	})
}

// OnLoopback refuses a request that has not come over loopback, or that a page of elsewhere made a
// browser on this machine send.
func OnLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if local == nil || !isLoopback(local.String()) || !isLoopback(r.RemoteAddr) || !isLoopback(r.Host) {
			http.Error(w, "profiles are served on loopback only: ask on the machine itself, or through an ssh tunnel", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback reports whether a host, with a port or without one, is this machine by loopback.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// who is what every answer says of the process.
type who struct {
	Status  string `json:"status"`
	Role    string `json:"role"`
	Run     string `json:"run,omitempty"`
	Version string `json:"version"`
}

func (p *Process) who(status string) who {
	p.mu.Lock()
	defer p.mu.Unlock()
	return who{status, p.cfg.Role, p.run, p.cfg.Version}
}

// loopState is a loop in the answer of /healthz.
type loopState struct {
	Role    string  `json:"role"`
	Loop    string  `json:"loop"`
	State   string  `json:"state"` // busy, waiting, stalled or idle
	Step    string  `json:"step,omitempty"`
	Seconds float64 `json:"seconds"` // since it began with that
}

// healthz answers 200 as long as every loop makes progress or waits, or else 503.
func (p *Process) healthz(w http.ResponseWriter, _ *http.Request) {
	status, code := "ok", http.StatusOK
	states := []loopState{}
	for _, s := range p.Watchdog.States() {
		state := loopState{s.Role, s.Name, "busy", s.Step, s.For.Seconds()}
		switch {
		case s.Stalled:
			state.State, status, code = "stalled", "stalled", http.StatusServiceUnavailable
		case s.Waiting:
			state.State = "waiting"
		case s.Step == "":
			state.State = "idle"
		}
		states = append(states, state)
	}
	p.answer(w, code, struct {
		who
		Loops []loopState `json:"loops"`
	}{p.who(status), states})
}

// readyz answers 200 when the process can do its job, or else 503 and what is missing.
func (p *Process) readyz(w http.ResponseWriter, _ *http.Request) {
	ready, outcomes := p.Ready()
	status, code := "ok", http.StatusOK
	if !ready {
		status, code = "unavailable", http.StatusServiceUnavailable
	}
	p.answer(w, code, struct {
		who
		Checks []Outcome `json:"checks"`
	}{p.who(status), outcomes})
}

func (p *Process) answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		p.cfg.Log.Debug("health was not told", "error", err)
	}
}
