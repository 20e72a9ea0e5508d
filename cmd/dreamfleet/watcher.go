package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// watchFlags are those of the commands that look at runs from outside.
type watchFlags struct {
	url, creds, ca, run, level string
}

func (f *watchFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.url, "nats", "", "`addresses` of the NATS servers, separated by commas (default: DREAMFLEET_NATS_URL)")
	flags.StringVar(&f.creds, "creds", "", "`file` with the operator's NKey seed or credentials (default: DREAMFLEET_NATS_CREDS)")
	flags.StringVar(&f.ca, "ca", "", "PEM `file` of the authority that signed the servers' certificate")
	flags.StringVar(&f.level, "log-level", "error", "trace, debug, info, warn or error")
}

// connectTimeout is how long somebody at a terminal waits for a bus that does not answer.
const connectTimeout = 10 * time.Second

// watcher looks at the runs on a bus.
type watcher struct {
	bus *protocol.Bus
	log hclog.Logger
}

// connect joins the bus as an operator, who may read everything. It sets nothing up there.
func (f *watchFlags) connect(cmd *cobra.Command, run string) (*watcher, error) {
	own := protocol.DefaultConfig()
	own.MergeEnvironment(os.LookupEnv)
	if f.url != "" {
		own.Bus.URL = f.url
	}
	if f.creds != "" {
		own.Bus.Creds = f.creds
	}
	if own.Bus.URL == "" {
		return nil, fmt.Errorf("%w: --nats or DREAMFLEET_NATS_URL must say where the bus is", protocol.ErrConfig)
	}
	own.Bus.CA, own.Run = f.ca, "watcher"
	if run != "" {
		own.Run = runName(run)
	}
	log := newLogger(f.level, cmd.ErrOrStderr())
	cfg := busConfig(own, nil, protocol.RoleOperator, "watcher")
	cfg.ReadOnly = true
	ctx, cancel := context.WithTimeout(cmd.Context(), connectTimeout)
	defer cancel()
	bus, err := protocol.Connect(ctx, cfg, log.Named("bus"))
	if err != nil {
		return nil, err
	}
	return &watcher{bus: bus, log: log}, nil
}

func (w *watcher) close() { w.bus.Close() }

// errUnheard: no process of a run is there.
var errUnheard = errors.New("no process is heard on the bus")

// state is that of all runs, or of one.
func (w *watcher) state(ctx context.Context, run string) (fleet.State, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	look := w.bus.AllHeartbeats
	if run != "" {
		look = w.bus.Heartbeats
	}
	beats, err := look(ctx)
	if err != nil {
		return fleet.State{}, err
	}
	if run != "" && len(beats) == 0 {
		return fleet.State{}, fmt.Errorf("run %s: %w", runName(run), errUnheard)
	}
	return fleet.Of(beats, time.Now()), nil
}
