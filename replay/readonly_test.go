package replay

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func folderDigest(t *testing.T, dir string) string {
	t.Helper()
	sum := sha256.New()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum.Write([]byte(e.Name()))
		sum.Write(content)
	}
	return string(sum.Sum(nil))
}

// A replay that is only read stays as it is on disk, whatever would be cut off, removed, moved or
// refreshed otherwise.
func TestReadOnlyLeavesTheDiskAlone(t *testing.T) {
	for _, exact := range []bool{false, true} {
		cfg := exactConfig(t.TempDir())
		cfg.Exact = exact
		state := t.TempDir()
		s := openStore(t, cfg)
		drive(t, s, 0, 20)
		if err := s.Save(state); err != nil {
			t.Fatal(err)
		}
		drive(t, s, 20, 60) // which an exact resume would forget
		closeStore(t, s)
		files := segmentFiles(t, cfg.Dir)
		newest, err := os.OpenFile(files[len(files)-1], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newest.WriteString("torn"); err != nil {
			t.Fatal(err)
		}
		if err := newest.Close(); err != nil {
			t.Fatal(err)
		}

		before := folderDigest(t, cfg.Dir)
		cfg.State, cfg.ReadOnly = state, true
		cfg.Limiter.MinSteps = cfg.Capacity // so that the limiter would wait
		s = openStore(t, cfg)
		b := sample(t, s, 6, 20)
		if _, err := s.Refresh(&protocol.Refresh{Refs: b.Refs, Context: make([]float32, len(b.Refs)*testContext)}); err != nil {
			t.Error(err)
		}
		if _, err := s.Insert(testChunk("b", 0, 0, 16)); err == nil {
			t.Error("a chunk was inserted")
		}
		if err := s.Sample(t.Context(), b, 1, 1000); err == nil || !strings.Contains(err.Error(), "for ever") {
			t.Errorf("a sample that can never be: %v", err)
		}
		closeStore(t, s)
		if folderDigest(t, cfg.Dir) != before {
			t.Errorf("exact %v: the folder has changed", exact)
		}
	}
}

// A state that is not where it was looked for must not cost the steps.
func TestExactResumeWithoutStateRefuses(t *testing.T) {
	cfg := exactConfig(t.TempDir())
	s := openStore(t, cfg)
	drive(t, s, 0, 20)
	closeStore(t, s)
	before := folderDigest(t, cfg.Dir)
	if _, err := Open(cfg, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "has no "+stateFile) {
		t.Errorf("opened with %v", err)
	}
	if folderDigest(t, cfg.Dir) != before {
		t.Error("the folder has changed")
	}
}
