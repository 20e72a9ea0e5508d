package learner

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func archived(t testing.TB) (dir string, archive []byte) {
	t.Helper()
	dir = t.TempDir()
	parts := []Part{
		{Name: StateFile, Save: func(w io.Writer) error { _, err := io.WriteString(w, "state"); return err }},
		{Name: "extra", Save: func(io.Writer) error { return nil }},
	}
	c, err := OpenCheckpoints(dir, 1, parts, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := c.Save(Manifest{Counters: Counters{Updates: 7}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := ckpt.Archive()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	// It is deleted before it is written out.
	if err := os.RemoveAll(ckpt.Dir); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if n, err := a.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
	}
	return dir, b.Bytes()
}

// A checkpoint that goes to another folder is the same there.
func TestArchive(t *testing.T) {
	_, archive := archived(t)
	dir := t.TempDir()
	got, err := Unpack(dir, bytes.NewReader(archive), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	again, err := Latest(dir, hclog.NewNullLogger())
	if err != nil || again.Dir != got.Dir || again.Manifest.Updates != 7 {
		t.Fatalf("got %+v, %v", again, err)
	}
	var text []byte
	if err := again.Load(Part{Name: StateFile, Load: func(r io.Reader) (err error) { text, err = io.ReadAll(r); return err }}); err != nil || string(text) != "state" {
		t.Errorf("state %q, %v", text, err)
	}
}

// What is cut short or altered leaves no checkpoint behind.
func TestDamagedArchive(t *testing.T) {
	_, archive := archived(t)
	for name, damaged := range map[string][]byte{
		"nothing":        nil,
		"half":           archive[:len(archive)/2],
		"no second file": archive[:len(archive)-3*512],
		"other state":    bytes.Replace(archive, []byte("state\x00"), []byte("stale\x00"), 1),
		"other manifest": bytes.Replace(archive, []byte(`"updates": 7`), []byte(`"updates": 8`), 1),
	} {
		dir := t.TempDir()
		if _, err := Unpack(dir, bytes.NewReader(damaged), hclog.NewNullLogger()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: the folder has %v, %v", name, entries, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	_, archive := archived(f)
	f.Add(archive)
	f.Add(archive[:600])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Unpack(t.TempDir(), bytes.NewReader(b), hclog.NewNullLogger()); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Fatalf("no reason in %v", err)
		}
	})
}
