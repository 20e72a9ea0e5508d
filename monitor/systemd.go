package monitor

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
)

// serviceManager tells systemd, where that has started the process as Type=notify, how it does: READY
// once all checks pass, WATCHDOG while no loop stalls, so that systemd ends and restarts one that hangs,
// and STOPPING. Without systemd it does nothing.
type serviceManager struct {
	process *Process
	every   time.Duration // between two WATCHDOG, half of what systemd waits; 0: none are wanted
	log     hclog.Logger

	ready    bool
	told     string
	petted   time.Time
	deaf     bool // nobody listens
	unspoken bool // a failure was logged
}

func newServiceManager(p *Process) *serviceManager {
	m := &serviceManager{process: p, log: p.cfg.Log}
	wait, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("systemd's watchdog is off", "error", err)
	}
	m.every = wait / 2
	return m
}

// readyEvery is how often readiness is looked at.
const readyEvery = time.Second

// run notifies until ctx ends.
func (m *serviceManager) run(ctx context.Context, stopping <-chan struct{}) {
	interval := readyEvery
	if m.every > 0 {
		interval = min(interval, m.every)
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		m.look(m.process.cfg.Now())
		if m.deaf {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-stopping:
			m.notify(daemon.SdNotifyStopping + "\nSTATUS=stopping")
			stopping = nil
		case <-ticker.C:
		}
	}
}

// look tells what has changed.
func (m *serviceManager) look(now time.Time) {
	ready, outcomes := m.process.Ready()
	status := "ready"
	for _, o := range outcomes {
		if !o.OK {
			status = o.Name + ": " + o.Reason
		}
	}
	switch {
	case m.process.stopping.Load():
	case ready && !m.ready:
		m.ready = true
		m.notify(daemon.SdNotifyReady + "\nSTATUS=" + status)
	case status != m.told:
		m.notify("STATUS=" + status)
	}
	m.told = status
	if m.every > 0 && now.Sub(m.petted) >= m.every && !m.process.Watchdog.Stalled() {
		m.petted = now
		m.notify(daemon.SdNotifyWatchdog)
	}
}

// notify leaves the environment as it is, for a process that starts over.
func (m *serviceManager) notify(state string) {
	sent, err := daemon.SdNotify(false, state)
	if err != nil && !m.unspoken {
		m.unspoken = true
		m.log.Warn("systemd was not told how the process does", "error", err)
	}
	m.deaf = err == nil && !sent
}
