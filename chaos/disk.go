package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Required reports whether what cannot be broken here has to be: CI is set in the
// environment, and CHAOS=optional is not.
func Required() bool { return os.Getenv("CI") != "" && os.Getenv("CHAOS") != "optional" }

// skip leaves the test out, aloud, or fails it where it is required.
func skip(t testing.TB, why error) {
	t.Helper()
	message := fmt.Sprintf("NOT DONE, nothing was broken and checked: %v", why)
	if Required() {
		t.Fatalf("%s. Set CHAOS=optional where this is to be so", message)
	}
	t.Skip(message)
}

// SmallDisk mounts a file system of so many bytes for the time of a test and returns
// its folder. It needs root.
func SmallDisk(t testing.TB, bytes int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes))
	}
	if err != nil {
		skip(t, fmt.Errorf("a small file system can not be mounted: %w", err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Fill writes a file into dir until nothing more fits, and returns a function that
// removes it.
func Fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}
