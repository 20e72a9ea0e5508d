package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// errLocked says that a run folder is in use.
var errLocked = errors.New("another process is running in this folder")

// lockRun keeps a part of a run folder, named by the lock file, to this process until unlock or its
// end, however it ends.
func lockRun(dir, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errLocked
		}
		return nil, fmt.Errorf("run folder %s: %w", dir, err)
	}
	return func() { f.Close() }, nil // the lock goes with the file
}
