package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What init prints is what it takes to start the server and to connect.
func TestNATSInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fleet")
	args := []string{"nats", "init", "--out", dir, "--hosts", "bus.example,10.0.0.2,10.0.0.3", "--install", "/etc/nats", "--key", "actor@small"}
	code, out, stderr := execute(t, args...)
	if code != exitOK {
		t.Fatal(stderr)
	}
	for _, want := range []string{
		filepath.Join(dir, "10.0.0.2") + "/", "10.0.0.2:/etc/nats/", "certificate new", filepath.Join(dir, "keys", "actor@small.nk"), "machines of role actor",
		"DREAMFLEET_NATS_URL=tls://bus.example:4222,tls://10.0.0.2:4222,tls://10.0.0.3:4222\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if _, out, _ := execute(t, args...); strings.Count(out, "certificate kept") != 3 {
		t.Errorf("printed the second time:\n%s", out)
	}
	if code, _, stderr := execute(t, "nats", "init", "--out", dir, "--hosts", "a,b"); code != exitFailure || !strings.Contains(stderr, "2 hosts") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
