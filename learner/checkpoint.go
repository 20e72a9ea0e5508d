package learner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// ManifestFile is the name of a checkpoint's manifest.
	ManifestFile = "manifest.json"

	manifestFormat = 1
	// maxManifest bounds what is read; a manifest has one or two kilobytes.
	maxManifest = 1 << 20
)

var (
	// ErrNoCheckpoint: a folder holds no checkpoint at all.
	ErrNoCheckpoint = errors.New("no checkpoint")
	// ErrDamaged: a checkpoint is not as it was written.
	ErrDamaged = errors.New("checkpoint is damaged")
	// ErrFormat: a checkpoint is of a format that this program does not read.
	ErrFormat = errors.New("unknown checkpoint format")
)

// Part is one file of a checkpoint and how its state is saved and loaded.
type Part struct {
	Name string // of the file
	Save func(io.Writer) error
	Load func(io.Reader) error
}

// Counters are totals over the whole run.
type Counters struct {
	Updates       int64  `json:"updates"`
	ReplayedSteps int64  `json:"replayed_steps"` // trained on
	Skipped       int64  `json:"skipped"`        // updates that were not finite
	Restores      int64  `json:"restores"`       // of a checkpoint after too many of them
	ParamVersion  uint64 `json:"param_version"`  // newest published
	VersionFloor  uint64 `json:"version_floor"`  // first version after the last jump
}

// Manifest describes a checkpoint.
type Manifest struct {
	Format int   `json:"format"`
	Number int64 `json:"number"` // of the checkpoint, which names its folder
	Counters
	Clean        bool            `json:"clean"` // nothing was published after it
	ConfigDigest string          `json:"config_digest"`
	Created      time.Time       `json:"created,omitzero"` // left out in lockstep
	Interval     map[string]Mean `json:"interval"`         // metrics not yet recorded
	Files        []File          `json:"files"`
	Digest       string          `json:"digest"` // SHA-256 of the manifest with this empty
}

// File is one file of a checkpoint.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// encode writes the manifest with its digest.
func (m Manifest) encode() ([]byte, error) {
	m.Digest = ""
	b, err := m.marshal()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	m.Digest = hex.EncodeToString(sum[:])
	return m.marshal()
}

func (m Manifest) marshal() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// decodeManifest reads a manifest and refuses any that encode would not have
// written, byte for byte.
func decodeManifest(b []byte) (Manifest, error) {
	var m Manifest
	var probe struct{ Format int }
	if err := json.Unmarshal(b, &probe); err != nil {
		return m, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	if probe.Format != manifestFormat {
		return m, fmt.Errorf("manifest has format %d, this program reads %d: %w", probe.Format, manifestFormat, ErrFormat)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("manifest: %w: %w", ErrDamaged, err)
	}
	again, err := m.encode()
	if err != nil || !bytes.Equal(again, b) {
		return m, fmt.Errorf("manifest does not have its digest: %w", ErrDamaged)
	}
	for _, f := range m.Files {
		if f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) {
			return m, fmt.Errorf("manifest names a file %q outside its folder: %w", f.Name, ErrDamaged)
		}
	}
	return m, nil
}

// Checkpoint is a complete and verified checkpoint on disk.
type Checkpoint struct {
	Dir      string
	Manifest Manifest
}

// Open verifies the checkpoint in a folder: every byte of it is as it was
// written, or the error wraps ErrDamaged or ErrFormat.
func Open(dir string) (*Checkpoint, error) {
	b, err := readBounded(filepath.Join(dir, ManifestFile), maxManifest)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	m, err := decodeManifest(b)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %s: %w", dir, err)
	}
	for _, f := range m.Files {
		if err := f.verify(dir); err != nil {
			return nil, fmt.Errorf("checkpoint %s: %w", dir, err)
		}
	}
	return &Checkpoint{Dir: dir, Manifest: m}, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is over %d bytes: %w", filepath.Base(path), limit, ErrDamaged)
	}
	return b, err
}

func (f File) verify(dir string) error {
	r, err := os.Open(filepath.Join(dir, f.Name))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	digest := sha256.New()
	n, err := io.Copy(digest, io.LimitReader(r, f.Size+1))
	if err != nil {
		return err
	}
	if n != f.Size || hex.EncodeToString(digest.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s is not the file that was written: %w", f.Name, ErrDamaged)
	}
	return nil
}

// Load hands each part its file. After an error some parts may be loaded.
func (c *Checkpoint) Load(parts ...Part) error {
	for _, p := range parts {
		if err := c.load(p); err != nil {
			return fmt.Errorf("checkpoint %s: load %s: %w", c.Dir, p.Name, err)
		}
	}
	return nil
}

func (c *Checkpoint) load(p Part) error {
	r, err := c.File(p.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	return p.Load(r)
}

// File opens one file of the checkpoint for reading.
func (c *Checkpoint) File(name string) (io.ReadCloser, error) {
	if !slices.ContainsFunc(c.Manifest.Files, func(f File) bool { return f.Name == name }) {
		return nil, fmt.Errorf("the checkpoint has no %s", name)
	}
	return os.Open(filepath.Join(c.Dir, name))
}

// Latest opens the newest valid checkpoint below dir. Damaged ones are stepped
// over with a line in the log. The error wraps ErrNoCheckpoint when there are
// none, so that a run may start anew, and that of the newest when none is valid,
// so that it does not.
func Latest(dir string, log hclog.Logger) (*Checkpoint, error) {
	numbers, err := list(dir)
	if err != nil {
		return nil, err
	}
	var newest error
	for _, n := range slices.Backward(numbers) {
		c, err := Open(folder(dir, n))
		if err == nil {
			return c, nil
		}
		log.Warn("stepping over a checkpoint", "error", err)
		if newest == nil {
			newest = err
		}
	}
	if newest == nil {
		newest = fmt.Errorf("%s: %w", dir, ErrNoCheckpoint)
	}
	return nil, newest
}

func folder(dir string, number int64) string { return filepath.Join(dir, fmt.Sprintf("%08d", number)) }

// list returns the numbers of the checkpoints in dir in increasing order.
func list(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var numbers []int64
	for _, e := range entries {
		var n int64
		if _, err := fmt.Sscanf(e.Name(), "%d", &n); err == nil && n > 0 && e.Name() == fmt.Sprintf("%08d", n) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}
