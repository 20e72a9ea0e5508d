package learner

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// Checkpoints writes a run's checkpoints and keeps the newest. One process at
// a time does so in a folder.
type Checkpoints struct {
	dir   string
	keep  int
	parts []Part
	log   hclog.Logger
	// valid tells what was found of the checkpoints in the folder, so that
	// saving does not read the kept ones again.
	valid map[int64]bool
}

// OpenCheckpoints creates the folder when it is missing, and clears away what a
// killed process left half written or half deleted. Of what Save writes, keep
// checkpoints remain.
func OpenCheckpoints(dir string, keep int, parts []Part, log hclog.Logger) (*Checkpoints, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.Name()[0] == '.' && (ext == partial || ext == old) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("checkpoints: %w", err)
			}
		}
	}
	return &Checkpoints{dir: dir, keep: keep, parts: parts, log: log, valid: map[int64]bool{}}, nil
}

// Latest opens the newest valid checkpoint, see the function of that name.
func (c *Checkpoints) Latest() (*Checkpoint, error) { return Latest(c.dir, c.log) }

// Save writes a checkpoint of all parts. The manifest's number and files are
// filled in. It is on disk, directory entry included, when Save returns; after
// an error, or a crash in between, there is none.
func (c *Checkpoints) Save(m Manifest) (*Checkpoint, error) {
	numbers, err := list(c.dir)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: %w", err)
	}
	m.Number = 1
	if len(numbers) > 0 {
		m.Number = numbers[len(numbers)-1] + 1
	}
	aside, err := c.stage(&m)
	if err != nil {
		return nil, fmt.Errorf("checkpoint %d: %w", m.Number, err)
	}
	final := folder(c.dir, m.Number)
	if err := os.Rename(aside, final); err != nil {
		return nil, fmt.Errorf("checkpoint %d: %w", m.Number, err)
	}
	if err := syncDir(c.dir); err != nil {
		return nil, fmt.Errorf("checkpoint %d: %w", m.Number, err)
	}
	c.valid[m.Number] = true
	c.prune(append(numbers, m.Number))
	return &Checkpoint{Dir: final, Manifest: m}, nil
}

// Suffixes of folders being written and being deleted; they begin with a dot.
const (
	partial = ".partial"
	old     = ".old"
)

func hidden(dir string, number int64, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf(".%08d%s", number, suffix))
}

// stage writes the checkpoint into a folder that no reader looks at, and returns
// it.
func (c *Checkpoints) stage(m *Manifest) (string, error) {
	aside := hidden(c.dir, m.Number, partial)
	if err := os.Mkdir(aside, 0o777); err != nil {
		return "", err
	}
	if err := c.fill(aside, m); err != nil {
		_ = os.RemoveAll(aside) // what failed is the error to report
		return "", err
	}
	return aside, nil
}

func (c *Checkpoints) fill(aside string, m *Manifest) error {
	m.Format, m.Files = manifestFormat, nil
	for _, p := range c.parts {
		f, err := writeFile(aside, p.Name, p.Save)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		m.Files = append(m.Files, f)
	}
	b, err := m.encode()
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if _, err := writeFile(aside, ManifestFile, func(w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return syncDir(aside)
}

// writeFile writes, digests and syncs one file.
func writeFile(dir, name string, save func(io.Writer) error) (File, error) {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	digest := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, digest), 64<<10)
	if err := save(w); err != nil {
		return File{}, err
	}
	if err := w.Flush(); err != nil {
		return File{}, err
	}
	if err := f.Sync(); err != nil {
		return File{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return File{}, err
	}
	return File{Name: name, Size: info.Size(), SHA256: hex.EncodeToString(digest.Sum(nil))}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// prune deletes what is older than the newest valid checkpoints to keep.
// Damaged ones neither count nor go.
func (c *Checkpoints) prune(numbers []int64) {
	kept := 0
	for _, n := range slices.Backward(numbers) {
		valid, known := c.valid[n]
		if !known {
			_, err := Open(folder(c.dir, n))
			valid = err == nil
			c.valid[n] = valid
		}
		if !valid {
			continue
		}
		if kept++; kept <= c.keep {
			continue
		}
		// Renamed first, so that one half deleted is not taken for damaged.
		gone := hidden(c.dir, n, old)
		err := os.Rename(folder(c.dir, n), gone)
		if err == nil {
			err = os.RemoveAll(gone)
		}
		if err != nil {
			c.log.Warn("an old checkpoint could not be deleted", "error", err)
		}
		delete(c.valid, n)
	}
}
