package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestNATSServesUntilItIsStopped(t *testing.T) {
	for name, args := range map[string][]string{
		"alone":     nil,
		"from file": {"--config", filepath.Join("..", "..", "deploy", "nats-server.conf")},
	} {
		t.Run(name, func(t *testing.T) {
			serveAndStop(t, append(args, "--listen", "127.0.0.1:0", "--store", filepath.Join(t.TempDir(), "nats"), "--log-level", "error"))
		})
	}
}

func serveAndStop(t *testing.T, args []string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan int)
	go func() {
		code := run(ctx, append([]string{"nats"}, args...), in, in)
		in.Close()
		done <- code
	}()
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, url, ok := strings.Cut(strings.TrimSpace(line), "DREAMFLEET_NATS_URL=")
	if !ok {
		t.Fatalf("first line %q", line)
	}
	client, err := nats.Connect(url, nats.Timeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.FlushTimeout(10 * time.Second); err != nil {
		t.Errorf("no answer from %s: %v", url, err)
	}
	cancel()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v on stopping", rest, err)
	}
	if code := <-done; code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// startNATS runs the nats command until ctx ends and returns its address.
func startNATS(ctx context.Context, t *testing.T, wg *sync.WaitGroup, dir string) string {
	t.Helper()
	out, in := io.Pipe()
	wg.Go(func() {
		if code := run(ctx, []string{"nats", "--listen", "127.0.0.1:0", "--store", filepath.Join(dir, "nats"), "--log-level", "error"}, in, in); code != exitOK {
			t.Errorf("nats ended with %d", code)
		}
		in.Close()
	})
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _, _ = io.Copy(io.Discard, lines) })
	_, url, ok := strings.Cut(strings.TrimSpace(line), "DREAMFLEET_NATS_URL=")
	if !ok {
		t.Fatalf("first line %q", line)
	}
	return url
}

// A port that is in use is an error at once, which says so.
func TestNATSOnAnOccupiedPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	began := time.Now()
	code, _, stderr := execute(t, "nats", "--listen", taken.Addr().String(), "--store", filepath.Join(t.TempDir(), "nats"))
	if code != exitFailure || !strings.Contains(stderr, "address already in use") || time.Since(began) > 10*time.Second {
		t.Errorf("exit code %d after %v: %s", code, time.Since(began), stderr)
	}
}
