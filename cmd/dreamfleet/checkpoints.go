package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// copier copies the checkpoints of a learner to its bus, so that the run can go on where its folder
// is not.
type copier struct {
	ctx   context.Context // ends what is under way
	lease *protocol.Lease
	keep  int
	log   hclog.Logger

	mu      sync.Mutex
	waiting *learner.Archive // the newest one, where another is on its way
	version uint64           // of the one that waits
	busy    bool
	under   sync.WaitGroup
}

// saved sends a checkpoint, or, while another is on its way, leaves it to be sent after that.
func (c *copier) saved(ckpt *learner.Checkpoint) {
	archive, err := ckpt.Archive()
	if err != nil {
		c.log.Warn("checkpoint is not copied to the bus", "error", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting != nil {
		c.close(c.waiting)
	}
	c.waiting, c.version = archive, uint64(ckpt.Manifest.Number)
	if !c.busy {
		c.busy = true
		c.under.Go(c.run)
	}
}

// run sends what waits until nothing does.
func (c *copier) run() {
	for {
		c.mu.Lock()
		archive, version := c.waiting, c.version
		c.waiting, c.busy = nil, archive != nil
		c.mu.Unlock()
		if archive == nil {
			return
		}
		if err := c.send(archive, version); err != nil {
			c.log.Warn("checkpoint is not copied to the bus", "checkpoint", version, "error", err)
		}
		c.close(archive)
	}
}

// copyTimeout is how long a checkpoint may take: an hour for 4 GB at a megabyte a second.
const copyTimeout = time.Hour

func (c *copier) send(archive *learner.Archive, version uint64) error {
	ctx, cancel := context.WithTimeout(c.ctx, copyTimeout)
	defer cancel()
	r, w := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() {
		_, err := archive.WriteTo(w)
		w.CloseWithError(err)
	})
	err := c.lease.PutCheckpoint(ctx, version, r, c.keep)
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	writing.Wait()
	return err
}

func (c *copier) close(archive *learner.Archive) {
	if err := archive.Close(); err != nil {
		c.log.Debug("archive was not closed", "error", err)
	}
}

// checkpointSource is what fetchCheckpoint needs of a bus.
type checkpointSource interface {
	NewestCheckpoint(ctx context.Context) (version uint64, err error)
	GetCheckpoint(ctx context.Context, w io.Writer) (version uint64, err error)
}

const (
	// fetchTries is how often a checkpoint is fetched before somebody else had better do it: servers that elect a
	// leader for it, or another learner that deletes it for a newer one, may spoil some.
	fetchTries = 5
	fetchPause = time.Second
)

// fetchCheckpoint brings a run's newest checkpoint from the bus into a folder that has none as new. A checkpoint
// that breaks off is fetched again.
func fetchCheckpoint(ctx context.Context, bus checkpointSource, dir string, log hclog.Logger) error {
	for try := 1; ; try++ {
		err := fetchOnce(ctx, bus, filepath.Join(dir, checkpointDir), log)
		if err == nil || try == fetchTries || ctx.Err() != nil {
			return err
		}
		log.Warn("checkpoint is not fetched, trying again", "try", try, "of", fetchTries, "error", err)
		select {
		case <-time.After(fetchPause):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

func fetchOnce(ctx context.Context, bus checkpointSource, dir string, log hclog.Logger) error {
	version, err := bus.NewestCheckpoint(ctx)
	if errors.Is(err, protocol.ErrNoCheckpoint) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := learner.Latest(dir, log)
	switch {
	case errors.Is(err, learner.ErrNoCheckpoint):
	case err != nil:
		return err
	case uint64(have.Manifest.Number) >= version:
		return nil
	}
	r, w := io.Pipe()
	var fetching sync.WaitGroup
	var fetchErr error
	fetching.Go(func() {
		_, fetchErr = bus.GetCheckpoint(ctx, w)
		w.CloseWithError(fetchErr)
	})
	ckpt, err := learner.Unpack(dir, r, log)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // the object's digest is known at its end
	}
	r.CloseWithError(io.ErrClosedPipe)
	fetching.Wait()
	if fetchErr != nil && !errors.Is(fetchErr, io.ErrClosedPipe) {
		err = fetchErr // of which the other came
	}
	if err != nil {
		return fmt.Errorf("the run's checkpoint on the bus: %w", err)
	}
	log.Info("checkpoint fetched from the bus", "updates", ckpt.Manifest.Updates, "folder", ckpt.Dir)
	return nil
}
