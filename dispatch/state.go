package dispatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// state is what a service goes on with after a restart. It is kept in state.json.
type state struct {
	Stage   Stage     `json:"stage"`
	Step    int       `json:"step"` // of the plan's canary shares
	Since   time.Time `json:"since"`
	Version uint64    `json:"version"` // of the parameters that act; 0: none yet
	Pinned  bool      `json:"pinned"`  // after a rollback: newer ones wait for a human
	Holds   []Hold    `json:"holds"`   // of all streams
}

const (
	stateFile = "state.json"
	maxState  = 1 << 20
)

// loadState reads the state of an earlier life, if there is one.
func (s *Service) loadState() error {
	path := filepath.Join(s.dir, stateFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var st state
	if len(text) > maxState {
		return fmt.Errorf("%s has %d bytes, at most %d: it is no state of a dispatcher", path, len(text), maxState)
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return fmt.Errorf("%s: %w; remove it to begin in the plan's stage", path, err)
	}
	if st.Stage != Shadow && st.Stage != Canary && st.Stage != Active {
		return fmt.Errorf("%s: stage is %q; remove it to begin in the plan's stage", path, st.Stage)
	}
	st.Step = min(max(st.Step, 0), len(s.plan.Canary)-1)
	s.state = st
	return nil
}

// save writes the state. It must not be called with Service.mu held.
func (s *Service) save() error {
	if s.dir == "" {
		return nil
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	text, err := json.MarshalIndent(s.state, "", "  ")
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(s.dir, stateFile), append(text, '\n'))
}

// replaceFile writes a file anew: a crash leaves the old one or the new one.
func replaceFile(path string, content []byte) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
