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

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"

	"github.com/dreamfleet/dreamfleet/chaos"
	"github.com/dreamfleet/dreamfleet/protocol"
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

// A server whose disk is full ends, so that it is noticed, and started again until there is room.
func TestNATSEndsOnAFullDisk(t *testing.T) {
	disk := chaos.SmallDisk(t, 160<<20)
	args := []string{"nats", "--store", filepath.Join(disk, "nats"), "--listen", "127.0.0.1:0"}
	p := startProcess(t, args...)
	bus := connectTo(t, p)
	chaos.Fill(t, disk)
	large := &protocol.Chunk{
		Run: "park", Actor: "a", Steps: 1, ObsLen: 200_000, Actions: 1, Stride: 1, Obs: make([]float32, 200_000),
		Action: []uint16{0}, Reward: []float32{0}, Flags: []uint8{0}, LogProb: []float32{0},
	}
	outcome := make(chan error, 1)
	if err := bus.PublishChunk(t.Context(), large, func(_ uint64, err error) { outcome <- err }); err != nil {
		t.Fatal(err)
	}
	code, said := p.end(t), p.out.String()
	if code != exitFailure || !strings.Contains(said, "can no longer store") || !strings.Contains(said, "no space left on device") {
		t.Errorf("it ended with %d: %s", code, said)
	}
	if err := <-outcome; err == nil {
		t.Error("800 kB on a full disk were acknowledged")
	}
}

// connectTo connects to the server of a process.
func connectTo(t *testing.T, p *process) *protocol.Bus {
	t.Helper()
	url := ""
	waitFor(t, func() bool {
		_, rest, found := strings.Cut(p.out.String(), urlVariable+"=")
		line, _, ended := strings.Cut(rest, "\n")
		url = line
		return found && ended
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	bus, err := protocol.Connect(ctx, protocol.BusConfig{
		URL: url, Run: "park", Name: "a", Role: protocol.RoleReplay, TrajBytes: 32 << 20, DeadBytes: protocol.MaxMessage,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
	return bus
}
