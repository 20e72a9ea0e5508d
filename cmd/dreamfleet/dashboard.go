package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/monitor/dashboard"
	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

// Files of a run folder: where its dashboard is, and the recorded episodes.
const (
	urlFile  = "dashboard.url"
	viewsDir = "views"
)

func newDashboardCommand() *cobra.Command {
	var f watchFlags
	var listen, token, experiment string
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Serve a page that shows the runs on a bus as they go",
		Long: `Serve a page that shows the runs on a bus: hosts, roles, versions and heartbeats, throughput, the age of
the parameters, the limiter, what the replay holds, curves beside the heuristics, and the environment
itself, live from a running actor: the queues, the policy's probabilities beside what LEFT and the tuned
index would do, and what the world model had predicted. A run of 'train' serves the same page by itself.

The world model comes from the run's newest checkpoint on the bus. With --run FOLDER it comes from
FOLDER/checkpoints, and the episodes recorded in FOLDER/views ('dreamfleet evaluate --view') can be played,
too. With --experiment FOLDER it shows what was
forgotten: the scores on every test after every stage.

It serves this machine only. For another address it needs --token-file, and who looks opens
http://ADDRESS/?token=TOKEN once. From elsewhere come through ssh -L, or put TLS before it.`,
		Example: `  # A cluster.
  dreamfleet dashboard --nats nats://10.0.0.5:4222

  # With the recorded episodes of a run whose folder is here.
  dreamfleet dashboard --nats nats://10.0.0.5:4222 --run runs/small

  # For a group.
  dreamfleet dashboard --nats nats://10.0.0.5:4222 --listen 0.0.0.0:8080 --token-file token`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (closing error) {
			secret, err := dashboard.ReadToken(token)
			if err != nil {
				return err
			}
			listener, err := dashboard.Listen(listen, secret)
			if err != nil {
				return err
			}
			defer listener.Close()
			source, err := f.connect(cmd, f.run)
			if err != nil {
				return err
			}
			defer source.close()
			fmt.Fprintf(cmd.OutOrStdout(), "Dashboard: %s\n", pageURL(listener))
			cfg := dashboard.Config{Bus: source.bus, Token: secret, Experiment: experiment, Now: time.Now, Log: source.log.Named("dashboard")}
			saved, err := savedConfig(f.run)
			switch {
			case f.run == "" || errors.Is(err, fs.ErrNotExist):
				fetched := &fetchedForecasts{ctx: cmd.Context(), log: cfg.Log, connect: func(run string) (*watcher, error) { return f.connect(cmd, run) }}
				cfg.Forecast = fetched.add
				defer func() { closing = errors.Join(closing, fetched.close()) }()
			case err != nil:
				return err
			default:
				forecasts := &forecasts{cfg: saved, dir: f.run, log: cfg.Log}
				defer forecasts.close()
				cfg.Episodes, cfg.Forecast = filepath.Join(f.run, viewsDir), forecasts.forecast()
			}
			if f.run != "" {
				cfg.Run = runName(f.run)
			}
			return dashboard.New(cfg).Serve(cmd.Context(), listener)
		},
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.run, "run", "", "`folder` or name of the run to show first")
	flags.StringVar(&listen, "listen", "127.0.0.1:8080", "`address` to serve at; port 0 takes a free one")
	flags.StringVar(&token, "token-file", "", "`file` with the token that who looks must know, made where missing")
	flags.StringVar(&experiment, "experiment", "", "`folder` of an experiment, to show what was forgotten")
	must(cmd.MarkFlagDirname("experiment"))
	return cmd
}

// pageURL is where a browser on this machine finds the page.
func pageURL(listener net.Listener) string { return "http://" + listener.Addr().String() + "/" }

// page is the dashboard of a run of train.
type page struct {
	listener net.Listener
	token    string
	url      string
	file     string
}

// openPage opens the address of a run's dashboard and notes it in the run folder.
func openPage(cfg protocol.Config, dir string) (*page, error) {
	if cfg.Dashboard.Listen == "" {
		return nil, nil
	}
	token, err := dashboard.ReadToken(cfg.Dashboard.TokenFile)
	if err != nil {
		return nil, err
	}
	listener, err := dashboard.Listen(cfg.Dashboard.Listen, token)
	if err != nil {
		return nil, err
	}
	p := &page{listener: listener, token: token, url: pageURL(listener), file: filepath.Join(dir, urlFile)}
	if err := os.WriteFile(p.file, []byte(p.url+"\n"), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("dashboard: %w", err), listener.Close())
	}
	return p, nil
}

// close ends what Serve has not.
func (p *page) close() error {
	err := p.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, os.Remove(p.file))
}

// serveDashboard serves the page of this run until ctx ends. Training goes on where it fails.
func (t *training) serveDashboard(ctx context.Context) error {
	if t.page == nil {
		return nil
	}
	log := t.log.Named("dashboard")
	bus, err := protocol.Connect(ctx, busConfig(t.cfg, t.server, protocol.RoleOperator, "dashboard"), log)
	if err != nil {
		log.Error("dashboard is not served", "error", err)
		return nil
	}
	defer bus.Close()
	forecasts := &forecasts{cfg: t.cfg, dir: t.dir, log: log}
	defer forecasts.close()
	err = dashboard.New(dashboard.Config{
		Bus: bus, Token: t.page.token, Run: t.cfg.Run, Episodes: filepath.Join(t.dir, viewsDir),
		Forecast: forecasts.forecast(), Now: time.Now, Log: log,
	}).Serve(ctx, t.page.listener)
	if err != nil {
		log.Error("dashboard has ended", "error", err)
	}
	return nil
}

// forecasts predicts with the world model of a run's newest checkpoint.
type forecasts struct {
	cfg   protocol.Config
	dir   string
	log   hclog.Logger
	fetch func() error // brings newer checkpoints; nil: they come by themselves

	world      *world
	looked     time.Time // for a newer checkpoint
	checkpoint string    // of forecaster
	forecaster *view.Forecaster
}

// checkpointLook is how often a newer checkpoint is looked for, which reads the whole
// of it to verify it.
const checkpointLook = 30 * time.Second

// forecast is what adds forecasts, nil where there is no world model.
func (f *forecasts) forecast() func(*view.Clip) error {
	if onPolicy(f.cfg) {
		return nil
	}
	return f.add
}

// add adds forecasts to a clip of the run.
func (f *forecasts) add(clip *view.Clip) error {
	if clip.Run != f.cfg.Run {
		return fmt.Errorf("forecast: the model is run %s's, the view run %s's", f.cfg.Run, clip.Run)
	}
	if now := time.Now(); f.forecaster == nil || now.Sub(f.looked) >= checkpointLook {
		f.looked = now
		if err := f.follow(); err != nil {
			return err
		}
	}
	return f.forecaster.Add(clip)
}

// follow takes the newest checkpoint.
func (f *forecasts) follow() error {
	if f.fetch != nil {
		if err := f.fetch(); err != nil {
			return err
		}
	}
	ckpt, err := learner.Latest(filepath.Join(f.dir, checkpointDir), f.log)
	if err != nil {
		return err
	}
	if ckpt.Dir == f.checkpoint && f.forecaster != nil {
		return nil
	}
	if f.world == nil {
		if f.world, err = newWorld(f.cfg); err != nil {
			return err
		}
	}
	params, err := checkpointParams(worldModel(f.cfg, f.world), ckpt)
	if err != nil {
		return err
	}
	forecaster, err := view.NewForecaster(params)
	if err != nil {
		return err
	}
	f.close()
	f.checkpoint, f.forecaster = ckpt.Dir, forecaster
	return nil
}

func (f *forecasts) close() {
	if f.forecaster != nil {
		f.forecaster.Close()
		f.forecaster = nil
	}
}

// checkpointParams reads a model's whole parameters from a checkpoint.
func checkpointParams(cfg model.Config, ckpt *learner.Checkpoint) (*model.Params, error) {
	params, err := model.NewParams(cfg)
	if err != nil {
		return nil, err
	}
	file, err := checkpointFile(ckpt)
	if err != nil {
		return nil, err
	}
	return params, model.Assign(params.Tensors(), file)
}
