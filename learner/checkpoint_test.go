package learner

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/chaos"
)

// text is a part that holds a string.
func text(name string, value *string) Part {
	return Part{
		Name: name,
		Save: func(w io.Writer) error { _, err := io.WriteString(w, *value); return err },
		Load: func(r io.Reader) error { b, err := io.ReadAll(r); *value = string(b); return err },
	}
}

func openTest(t *testing.T, dir string, keep int, parts ...Part) *Checkpoints {
	t.Helper()
	c, err := OpenCheckpoints(dir, keep, parts, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func save(t *testing.T, c *Checkpoints, updates int64) *Checkpoint {
	t.Helper()
	ckpt, err := c.Save(Manifest{
		Counters: Counters{Updates: updates, ParamVersion: 3}, ConfigDigest: "abc",
		Created:  time.Date(2025, 3, 1, 12, 0, 0, 5, time.UTC),
		Interval: map[string]Mean{"loss": {Sum: 0.1 + 0.2, Count: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return ckpt
}

func latestUpdates(t *testing.T, dir string) int64 {
	t.Helper()
	c, err := Latest(dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return c.Manifest.Updates
}

func TestCheckpointBringsPartsAndManifestBack(t *testing.T) {
	dir := t.TempDir()
	state, actors := "weights", "rollout"
	written := save(t, openTest(t, dir, 2, text("state", &state), text("actors", &actors)), 7)

	state, actors = "", ""
	read, err := Latest(dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := read.Load(text("state", &state), text("actors", &actors)); err != nil {
		t.Fatal(err)
	}
	if state != "weights" || actors != "rollout" {
		t.Errorf("parts came back as %q and %q", state, actors)
	}
	w, _ := json.Marshal(written.Manifest)
	r, _ := json.Marshal(read.Manifest)
	read.Manifest.Digest = ""
	r2, _ := json.Marshal(read.Manifest)
	if !bytes.Equal(w, r2) {
		t.Errorf("manifest came back as\n%s, was\n%s", r, w)
	}
	if err := read.Load(text("replay", &state)); err == nil {
		t.Error("a part that was never saved could be loaded")
	}
}

// Whatever byte of whatever file is changed, and wherever it is cut, the
// checkpoint is refused.
func TestAnyDamageIsDetected(t *testing.T) {
	dir := t.TempDir()
	state := "some weights"
	ckpt := save(t, openTest(t, dir, 2, text("state", &state)), 7)
	refused := func(what string, at int) {
		t.Helper()
		if _, err := Open(ckpt.Dir); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Fatalf("%s at %d: error is %v", what, at, err)
		}
	}
	for _, name := range []string{"state", ManifestFile} {
		path := filepath.Join(ckpt.Dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			write(t, path, bad)
			refused(name+" flipped", i)
			write(t, path, good[:i])
			refused(name+" cut", i)
		}
		write(t, path, append(bytes.Clone(good), ' '))
		refused(name+" lengthened", len(good))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		refused(name+" deleted", 0)
		write(t, path, good)
	}
	if _, err := Open(ckpt.Dir); err != nil {
		t.Fatalf("restored by hand, the checkpoint is refused: %v", err)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

func damage(t *testing.T, c *Checkpoint) {
	t.Helper()
	write(t, filepath.Join(c.Dir, "state"), []byte("x"))
}

func TestLatestStepsOverDamagedCheckpoints(t *testing.T) {
	dir := t.TempDir()
	if _, err := Latest(dir, hclog.NewNullLogger()); !errors.Is(err, ErrNoCheckpoint) {
		t.Fatalf("an empty folder gives %v", err)
	}
	state := "weights"
	c := openTest(t, dir, 3, text("state", &state))
	first, second := save(t, c, 1), save(t, c, 2)

	damage(t, second)
	if got := latestUpdates(t, dir); got != 1 {
		t.Errorf("latest has %d updates, want the one before the damaged, 1", got)
	}
	if third := save(t, c, 3); third.Manifest.Number != 3 {
		t.Errorf("number %d was written over or skipped after a damaged 2", third.Manifest.Number)
	}
	if _, err := os.Stat(second.Dir); err != nil {
		t.Errorf("the damaged checkpoint is gone: %v", err)
	}

	damage(t, first)
	damage(t, &Checkpoint{Dir: folder(dir, 3)})
	_, err := Latest(dir, hclog.NewNullLogger())
	if !errors.Is(err, ErrDamaged) || errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("with nothing but damaged checkpoints the error is %v: a run would start anew", err)
	}
}

func TestPruneKeepsTheNewestValidAndAllDamaged(t *testing.T) {
	dir := t.TempDir()
	state := "weights"
	c := openTest(t, dir, 2, text("state", &state))
	for updates := range int64(3) {
		save(t, c, updates+1)
	}
	damage(t, &Checkpoint{Dir: folder(dir, 3)})
	c = openTest(t, dir, 2, text("state", &state)) // knows nothing yet
	save(t, c, 4)
	save(t, c, 5)
	numbers, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(numbers) != 3 || numbers[0] != 3 || numbers[1] != 4 || numbers[2] != 5 {
		t.Errorf("kept %v, want the damaged 3 and the two newest", numbers)
	}
}

// A process killed after everything is written and before the rename has
// written nothing.
func TestKilledBeforeTheRename(t *testing.T) {
	dir := t.TempDir()
	state := "old"
	c := openTest(t, dir, 2, text("state", &state))
	save(t, c, 1)
	state = "new"
	aside, err := c.stage(&Manifest{Number: 2, Counters: Counters{Updates: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(aside); err != nil {
		t.Fatalf("what was staged is not complete: %v", err)
	}
	if got := latestUpdates(t, dir); got != 1 {
		t.Errorf("latest has %d updates, want 1", got)
	}
	c = openTest(t, dir, 2, text("state", &state))
	if _, err := os.Stat(aside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-written folder remains: %v", err)
	}
	if got := save(t, c, 3); got.Manifest.Number != 2 {
		t.Errorf("the next checkpoint has number %d, want 2", got.Manifest.Number)
	}
}

func TestFailedSaveLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	full := errors.New("disk full")
	failing := Part{Name: "state", Save: func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 100))
		return full
	}}
	if _, err := openTest(t, dir, 2, failing).Save(Manifest{}); !errors.Is(err, full) {
		t.Errorf("error is %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	good, err := Manifest{Format: manifestFormat, Files: []File{{Name: "state", Size: 3}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":2}`))
	outside, err := Manifest{Format: manifestFormat, Files: []File{{Name: "../state"}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(outside)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
				t.Errorf("error %v wraps no sentinel", err)
			}
			return
		}
		for _, file := range m.Files {
			if filepath.Dir(file.Name) != "." || file.Name == ".." {
				t.Errorf("file %q leads out of the folder", file.Name)
			}
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("encodes to %q, was %q", again, b)
		}
	})
}

// A checkpoint for which the disk has no room leaves those before it, says so, and
// can be written once there is room.
func TestCheckpointOnAFullDisk(t *testing.T) {
	disk := chaos.SmallDisk(t, 256<<10)
	dir := filepath.Join(disk, "checkpoints")
	state := strings.Repeat("weights ", 8<<10)
	c := openTest(t, dir, 2, text("state", &state))
	save(t, c, 1)
	free := chaos.Fill(t, disk)
	if _, err := c.Save(Manifest{Counters: Counters{Updates: 2}}); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "checkpoint 2: ") {
		t.Errorf("error is %v", err)
	}
	if got := latestUpdates(t, dir); got != 1 {
		t.Errorf("latest has %d updates, want 1", got)
	}
	free()
	save(t, c, 3)
	if got := latestUpdates(t, dir); got != 3 {
		t.Errorf("latest has %d updates, want 3", got)
	}
}
