package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/watchdog"
)

// ProcessConfig says what a Process is and where it may be looked at.
type ProcessConfig struct {
	Role    string
	Run     string // empty: it serves all, or SetRun tells later
	Version string
	Listen  string   // host:port of the HTTP server; empty: none
	Checks  []string // that have to pass before it is ready, see Process.Check
	Now     func() time.Time
	Log     hclog.Logger
}

// Process lets others see how a process does: Prometheus by /metrics, a load balancer or Kubernetes
// by /healthz and /readyz, systemd by notifications, people by all of these and by pprof. Its methods
// may be called from several goroutines.
type Process struct {
	Watchdog *watchdog.Watchdog

	cfg      ProcessConfig
	exporter *exporter
	listener net.Listener // nil: none
	stopping atomic.Bool

	metrics atomic.Pointer[http.Handler]

	mu     sync.Mutex
	run    string
	names  []string
	checks map[string]func() error

	cancel context.CancelFunc
	under  sync.WaitGroup
}

// errNotYet fails a check that has not been set.
var errNotYet = errors.New("not yet")

// Start listens, watches and notifies until Close. From the end of ctx on the process is not
// ready any more, since it is stopping.
func Start(ctx context.Context, cfg ProcessConfig) (*Process, error) {
	p := &Process{
		cfg: cfg, Watchdog: watchdog.New(watchdog.Limit, cfg.Now, cfg.Log), exporter: newExporter(),
		checks: map[string]func() error{},
	}
	p.SetRun(cfg.Run)
	p.Await(cfg.Checks...)
	p.Source("process", p.emit)
	p.Source("loops", loops(p.Watchdog))
	if cfg.Listen != "" {
		if err := p.listen(cfg.Listen); err != nil {
			return nil, fmt.Errorf("monitor: %w", err)
		}
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	ticker := time.NewTicker(watchdog.CheckEvery)
	p.under.Go(func() {
		defer ticker.Stop()
		p.Watchdog.Run(watching, ticker.C)
	})
	manager := newServiceManager(p)
	p.under.Go(func() { manager.run(watching, ctx.Done()) })
	unhook := context.AfterFunc(ctx, func() { p.stopping.Store(true) })
	p.under.Go(func() { <-watching.Done(); unhook() })
	if p.listener != nil {
		p.under.Go(func() { p.serve(watching) })
	}
	return p, nil
}

// Close ends all that Start began.
func (p *Process) Close() {
	p.cancel()
	p.under.Wait()
}

// Address is where the HTTP server listens, empty where it does not.
func (p *Process) Address() string {
	if p.listener == nil {
		return ""
	}
	return p.listener.Addr().String()
}

// SetRun names the run that the process has joined.
func (p *Process) SetRun(run string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != run || p.metrics.Load() == nil {
		handler := p.newMetrics(run)
		p.run = run
		p.metrics.Store(&handler)
	}
}

// Source sets or replaces a source of metrics, by its name.
func (p *Process) Source(name string, s Source) { p.exporter.set(name, s) }

// Check sets or replaces a check, by its name. It returns nil, or what is missing, at once.
func (p *Process) Check(name string, check func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks[name] == nil {
		p.names = append(p.names, name)
	}
	p.checks[name] = check
}

// Await fails checks until they are set, again.
func (p *Process) Await(names ...string) {
	for _, name := range names {
		p.Check(name, func() error { return errNotYet })
	}
}

// Outcome is that of one check.
type Outcome struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // why not
}

// Ready runs all checks and reports whether the process can do its job.
func (p *Process) Ready() (ready bool, outcomes []Outcome) {
	p.mu.Lock()
	names := append([]string(nil), p.names...)
	checks := make([]func() error, len(names))
	for i, name := range names {
		checks[i] = p.checks[name]
	}
	p.mu.Unlock()
	ready = true
	for i, name := range names {
		o := Outcome{Name: name, OK: true}
		if err := checks[i](); err != nil {
			ready, o.OK, o.Reason = false, false, err.Error()
		}
		outcomes = append(outcomes, o)
	}
	if p.stopping.Load() {
		ready = false
		outcomes = append(outcomes, Outcome{Name: "running", Reason: "stopping"})
	}
	return ready, outcomes
}

// emit is the source of what the process is.
func (p *Process) emit(e *Emitter) {
	e.Value("dreamfleet_build_info", 1, p.cfg.Version, p.cfg.Role)
	_, outcomes := p.Ready()
	for _, o := range outcomes {
		e.Flag("dreamfleet_ready", o.OK, o.Name)
	}
}
