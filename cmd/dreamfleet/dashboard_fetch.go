package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
	"github.com/dreamfleet/dreamfleet/view"
)

// fetchTimeout is how long a run's configuration or checkpoint may take to come.
const fetchTimeout = time.Minute

// fetchedForecasts predict with the world model of whichever run on a bus is looked at: its
// configuration and its newest checkpoint come from there, into a folder that is removed
// when another run is looked at.
type fetchedForecasts struct {
	ctx     context.Context
	connect func(run string) (*watcher, error)
	log     hclog.Logger

	run    string // that is looked at
	tried  time.Time
	source *watcher
	of     *forecasts
}

// add adds forecasts to a clip.
func (f *fetchedForecasts) add(clip *view.Clip) error {
	if f.run != clip.Run {
		if err := f.close(); err != nil {
			return err
		}
		f.run, f.tried = clip.Run, time.Time{}
	}
	if f.of == nil {
		if time.Since(f.tried) < checkpointLook {
			return errors.New("forecast: the run's model could not be fetched a moment ago")
		}
		f.tried = time.Now()
		if err := f.open(); err != nil {
			return errors.Join(fmt.Errorf("forecast: %w", err), f.close())
		}
	}
	return f.of.add(clip)
}

// open connects to the run.
func (f *fetchedForecasts) open() (err error) {
	if f.source, err = f.connect(f.run); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.ctx, fetchTimeout)
	defer cancel()
	document, err := f.source.bus.GetConfig(ctx)
	if err != nil {
		return err
	}
	cfg, err := protocol.DecodeConfig("the configuration of run "+f.run, document)
	if err != nil {
		return err
	}
	if onPolicy(cfg) {
		return fmt.Errorf("run %s trains no world model", f.run)
	}
	dir, err := os.MkdirTemp("", "dreamfleet-dashboard-")
	if err != nil {
		return err
	}
	f.of = &forecasts{cfg: cfg, dir: dir, log: f.log, fetch: f.fetch}
	return nil
}

// fetch brings the newest checkpoint and removes those before.
func (f *fetchedForecasts) fetch() error {
	ctx, cancel := context.WithTimeout(f.ctx, fetchTimeout)
	defer cancel()
	if err := fetchCheckpoint(ctx, f.source.bus, f.of.dir, f.log); err != nil {
		return err
	}
	folder := filepath.Join(f.of.dir, checkpointDir)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil // there is none yet
	}
	for _, old := range entries[:max(0, len(entries)-1)] { // by number
		err = errors.Join(err, os.RemoveAll(filepath.Join(folder, old.Name())))
	}
	return err
}

// close forgets the run.
func (f *fetchedForecasts) close() (err error) {
	if f.of != nil {
		f.of.close()
		err = os.RemoveAll(f.of.dir)
		f.of = nil
	}
	if f.source != nil {
		f.source.close()
		f.source = nil
	}
	return err
}
