package learner

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
)

// Archive is a checkpoint on its way to another machine: a tar file of the
// manifest and then of the files in the manifest's order. It holds them open, so
// that the checkpoint may be deleted meanwhile.
type Archive struct{ files []*os.File }

// Archive opens the checkpoint's files.
func (c *Checkpoint) Archive() (*Archive, error) {
	a := &Archive{}
	names := []string{ManifestFile}
	for _, f := range c.Manifest.Files {
		names = append(names, f.Name)
	}
	for _, name := range names {
		f, err := os.Open(filepath.Join(c.Dir, name))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("archive of checkpoint %d: %w", c.Manifest.Number, err), a.Close())
		}
		a.files = append(a.files, f)
	}
	return a, nil
}

// WriteTo writes the tar file.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	counted := &counter{w: w}
	archive := tar.NewWriter(counted)
	for _, f := range a.files {
		info, err := f.Stat()
		if err == nil {
			err = archive.WriteHeader(&tar.Header{Name: filepath.Base(f.Name()), Mode: 0o644, Size: info.Size()})
		}
		if err == nil {
			_, err = io.Copy(archive, io.NewSectionReader(f, 0, info.Size()))
		}
		if err != nil {
			return counted.n, fmt.Errorf("archive: %w", err)
		}
	}
	return counted.n, archive.Close()
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Close closes the files.
func (a *Archive) Close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Unpack puts an archive among the checkpoints in dir, verified as Open does, or
// leaves the folder as it was. The files that it reads are those of the manifest,
// of the sizes there. An error about what was read wraps ErrDamaged or ErrFormat.
func Unpack(dir string, r io.Reader, log hclog.Logger) (*Checkpoint, error) {
	c, err := OpenCheckpoints(dir, 1, nil, log)
	if err != nil {
		return nil, err
	}
	aside, err := os.MkdirTemp(dir, ".*"+partial)
	if err != nil {
		return nil, fmt.Errorf("unpack checkpoint: %w", err)
	}
	defer os.RemoveAll(aside) // renamed, or not wanted
	m, err := c.unpack(aside, r)
	if err != nil {
		return nil, fmt.Errorf("unpack checkpoint: %w", err)
	}
	final := folder(dir, m.Number)
	if err := os.Rename(aside, final); err != nil {
		return nil, fmt.Errorf("unpack checkpoint: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("unpack checkpoint: %w", err)
	}
	return &Checkpoint{Dir: final, Manifest: m}, nil
}

func (c *Checkpoints) unpack(aside string, r io.Reader) (Manifest, error) {
	archive := tar.NewReader(r)
	next := func(name string, limit int64, exact bool) error {
		h, err := archive.Next()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w: %w", name, ErrDamaged, err)
		case h.Name != name || h.Size > limit || exact && h.Size < limit:
			return fmt.Errorf("%q of %d bytes where %s was expected: %w", h.Name, h.Size, name, ErrDamaged)
		}
		_, err = writeFile(aside, name, func(w io.Writer) error {
			_, err := io.Copy(w, archive)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if err := next(ManifestFile, maxManifest, false); err != nil {
		return Manifest{}, err
	}
	b, err := os.ReadFile(filepath.Join(aside, ManifestFile))
	if err != nil {
		return Manifest{}, err
	}
	m, err := decodeManifest(b)
	if err != nil {
		return m, err
	}
	if m.Number < 1 {
		return m, fmt.Errorf("manifest has number %d: %w", m.Number, ErrDamaged)
	}
	for _, f := range m.Files {
		if err := next(f.Name, f.Size, true); err != nil {
			return m, err
		}
	}
	if _, err := Open(aside); err != nil {
		return m, err
	}
	return m, syncDir(aside)
}
