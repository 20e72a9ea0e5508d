package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Status shows who is heard on a real bus, with keys, and says so where nobody is.
func TestStatus(t *testing.T) {
	dir := t.TempDir()
	server, err := protocol.StartServer(protocol.ServerConfig{StoreDir: dir + "/nats", Keys: dir + "/keys", Listen: "127.0.0.1:0"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	status := func(args ...string) (string, string, int) {
		var out, errs bytes.Buffer
		args = append([]string{"status", "--nats", server.URL(), "--creds", dir + "/keys/operator.nk"}, args...)
		code := run(t.Context(), args, &out, &errs)
		return out.String(), errs.String(), code
	}
	if out, errs, code := status(); code != exitOK || !strings.Contains(out, "No process") {
		t.Errorf("an empty bus: %d, %q, %q", code, out, errs)
	}
	bus, err := protocol.Connect(t.Context(), protocol.BusConfig{Server: server, Run: "small", Role: protocol.RoleLearner, Name: "l", Version: "v3"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	ctx, stop := context.WithCancel(t.Context())
	beating := make(chan error)
	go func() {
		beating <- bus.Heartbeat(ctx, func(s *protocol.Status) { s.Learner = &protocol.LearnerStatus{Phase: "training", Updates: 5} })
	}()
	defer func() { stop(); <-beating }()

	for late := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, errs, code := status("--run", "runs/small", "--json")
		var state fleet.State
		if code == exitOK {
			if err := json.Unmarshal([]byte(out), &state); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			p := state.Runs[0].Processes[0]
			if state.Runs[0].Name != "small" || p.Name != "l" || p.Version != "v3" || p.Learner.Updates != 5 {
				t.Errorf("state %+v", state)
			}
			break
		}
		if time.Now().After(late) {
			t.Fatalf("the learner is not heard: %d, %q, %q", code, out, errs)
		}
	}
	if out, _, code := status(); code != exitOK || !strings.Contains(out, "small  training") || !strings.Contains(out, "! no replay is running") {
		t.Errorf("status is %d:\n%s", code, out)
	}
	if _, errs, code := status("--run", "other"); code != exitFailure || !strings.Contains(errs, "run other: no process is heard") {
		t.Errorf("another run: %d, %q", code, errs)
	}
	if _, errs, code := status("--every", "1ms"); code != exitUsage || !strings.Contains(errs, "--every") {
		t.Errorf("too often: %d, %q", code, errs)
	}

	// A watch goes on until it is asked to end.
	watching, end := context.WithCancel(t.Context())
	out := &firstWrite{first: make(chan struct{})}
	done := make(chan int)
	go func() {
		done <- run(watching, []string{"status", "--nats", server.URL(), "--creds", dir + "/keys/operator.nk", "--watch", "--every", "200ms"}, out, out)
	}()
	<-out.first
	end()
	if code := <-done; code != exitOK {
		t.Errorf("the watch ends with %d", code)
	}
}

// firstWrite tells of the first write.
type firstWrite struct {
	first chan struct{}
	told  bool
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if !w.told {
		w.told = true
		close(w.first)
	}
	return len(p), nil
}
