package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// stalling is a bus on which the first fetches get no further than half of the checkpoint.
type stalling struct {
	archive []byte
	stalls  int
	fetches int
}

func (s *stalling) NewestCheckpoint(context.Context) (uint64, error) { return 1, nil }

func (s *stalling) GetCheckpoint(_ context.Context, w io.Writer) (uint64, error) {
	s.fetches++
	if s.fetches <= s.stalls {
		_, err := w.Write(s.archive[:len(s.archive)/2])
		return 0, errors.Join(err, protocol.ErrStalled)
	}
	_, err := w.Write(s.archive)
	return 1, err
}

func TestFetchCheckpointAgain(t *testing.T) {
	var archive bytes.Buffer
	parts := []learner.Part{{Name: learner.StateFile, Save: func(w io.Writer) error { _, err := io.WriteString(w, "state"); return err }}}
	c, err := learner.OpenCheckpoints(t.TempDir(), 1, parts, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := c.Save(learner.Manifest{Counters: learner.Counters{Updates: 7}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := ckpt.Archive()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.WriteTo(&archive); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		bus := &stalling{archive: archive.Bytes(), stalls: 2}
		if err := fetchCheckpoint(t.Context(), bus, dir, hclog.NewNullLogger()); err != nil || bus.fetches != 3 {
			t.Errorf("after %d fetches: %v", bus.fetches, err)
		}
		got, err := learner.Latest(filepath.Join(dir, checkpointDir), hclog.NewNullLogger())
		if err != nil || got.Manifest.Updates != 7 {
			t.Errorf("got %+v, %v", got, err)
		}
		bus = &stalling{archive: archive.Bytes(), stalls: fetchTries}
		if err := fetchCheckpoint(t.Context(), bus, t.TempDir(), hclog.NewNullLogger()); !errors.Is(err, protocol.ErrStalled) || bus.fetches != fetchTries {
			t.Errorf("one that never comes, after %d fetches: %v", bus.fetches, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		bus = &stalling{archive: archive.Bytes(), stalls: fetchTries}
		if err := fetchCheckpoint(ctx, bus, t.TempDir(), hclog.NewNullLogger()); err == nil || bus.fetches != 1 {
			t.Errorf("nobody waits for it, after %d fetches: %v", bus.fetches, err)
		}
	})
}
