package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"

	"github.com/dreamfleet/dreamfleet/dispatch"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/protocol"
)

var (
	dispatchLine = regexp.MustCompile(`url=(http://127\.0\.0\.1:\d+) stage`)
	monitorLine  = regexp.MustCompile(`are served: url=(http://127\.0\.0\.1:\d+)`)
)

// dispatching starts a dispatcher, waits until it has parameters, and returns its addresses.
func dispatching(t *testing.T, args ...string) (address, watched string, stop func() (int, string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var out said
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"dispatch", "--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0"}, args...), io.Discard, &out)
	}()
	stop = func() (int, string) { cancel(); return <-done, out.String() }
	t.Cleanup(cancel)
	waitFor(t, func() bool {
		select {
		case code := <-done:
			t.Fatalf("dispatch ended with %d: %s", code, out.String())
		default:
		}
		return dispatchLine.MatchString(out.String()) && strings.Contains(out.String(), "parameters are ready")
	})
	return dispatchLine.FindStringSubmatch(out.String())[1], monitorLine.FindStringSubmatch(out.String())[1], stop
}

func ask(t *testing.T, url, body string) map[string]any {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v, %v", url, response.Status, answer, err)
	}
	return answer
}

// busOf is a bus with keys for each role that has a run's configuration and its newest checkpoint.
func busOf(t *testing.T, dir string) (keys, url string, join func(protocol.Role) *protocol.Bus) {
	t.Helper()
	keys = t.TempDir()
	server, err := protocol.StartServer(protocol.ServerConfig{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Keys: keys}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	run := filepath.Base(dir)
	join = func(role protocol.Role) *protocol.Bus {
		b, err := protocol.Connect(t.Context(), protocol.BusConfig{Server: server, Run: run, Role: role, Name: "test"}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	join(protocol.RoleReplay) // sets up the stream of trajectories
	l := join(protocol.RoleLearner)
	document, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.PutConfig(t.Context(), document); err != nil {
		t.Fatal(err)
	}
	lease, err := l.TakeLease(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release(lease) }()
	ckpt := newest(t, dir)
	archive, err := ckpt.Archive()
	if err != nil {
		t.Fatal(err)
	}
	copies := &copier{ctx: t.Context(), lease: lease, keep: 2, log: hclog.NewNullLogger()}
	err = copies.send(archive, uint64(ckpt.Manifest.Number))
	copies.close(archive)
	if err != nil {
		t.Fatal(err)
	}
	return keys, server.URL(), join
}

// A run folder's policy over HTTP, with every command; then a run's from the bus, each with the key of its role and
// no right beyond it.
func TestDispatch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	trainTiny(t, dir, "--steps", "1500", "--set", "actor.chunk_length=16")

	address, watched, stop := dispatching(t, "--run", dir)
	if d := ask(t, address+"/v1/decide", `{"stream":"a","size":100,"start":true}`); d["reason"] != "stage" || d["advice"] == -1.0 {
		t.Errorf("%v", d)
	}
	names := scrape(t, watched)
	for _, m := range monitor.Table {
		if strings.HasPrefix(m.Name, "dreamfleet_dispatch_") && !names[m.Name] && m.Name != "dreamfleet_dispatch_replayed_cost_ratio" {
			t.Errorf("%s is not exported", m.Name)
		}
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"status", exitOK, "stage      shadow"}, {"approve", exitFailure, "the plan wants 10m0s in this step"},
		{"approve --force", exitOK, "stage      canary, the policy decides for 5 %"}, {"rollback 999999", exitFailure, "those kept are"},
		{"stepdown shadow", exitOK, "stage      shadow"}, {"release", exitOK, "0 released"}, {"release --stream x", exitFailure, "not known"},
		{"rollback x", exitUsage, "is no number"}, {"stepdown active", exitUsage, "invalid argument"},
	} {
		args := append([]string{"dispatch"}, strings.Fields(c.args)...)
		if code, out, stderr := execute(t, append(args, "--url", address)...); code != c.code || !strings.Contains(out+stderr, c.want) {
			t.Errorf("dispatch %s: %d, want %d and %q: %s%s", c.args, code, c.code, c.want, out, stderr)
		}
	}
	if code, _ := stop(); code != exitOK {
		t.Errorf("dispatch ended with %d", code)
	}
	if code, out, stderr := execute(t, "dispatch", "calibrate", "--run", dir, "--episodes", "3"); code != exitOK || strings.Count(out, "\n") != 8 {
		t.Errorf("calibrate ended with %d: %s%s", code, out, stderr)
	}
	plan := filepath.Join(t.TempDir(), "plan.yaml")
	for text, want := range map[string]string{"stage: on": "stage is", "stages: 1": "not found", "experience: {publish: true}": "--nats"} {
		if err := os.WriteFile(plan, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := execute(t, "dispatch", "--run", dir, "--plan", plan, "--listen", "127.0.0.1:0"); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: %d %s", text, code, stderr)
		}
	}

	// The same run on a bus.
	keys, server, join := busOf(t, dir)
	ckpt := newest(t, dir)
	if err := os.WriteFile(plan, []byte("stage: active\nguards: {deadline: {limit: 10s}, queue: {backlog: 1}}\nexperience: {publish: true, chunk: 4}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, stop = dispatching(t, "--run", "run", "--nats", server, "--creds", filepath.Join(keys, "dispatcher.nk"), "--plan", plan, "--state", t.TempDir())
	client, operator := join(protocol.RoleClient), join(protocol.RoleOperator)
	call := func(b *protocol.Bus, name string, command bool, body string) (map[string]any, error) {
		reply, err := b.CallDispatch(t.Context(), name, command, []byte(body))
		var answer map[string]any
		if err == nil {
			err = json.Unmarshal(reply, &answer)
		}
		return answer, err
	}
	// It is heard as the other roles are.
	waitFor(t, func() bool {
		code, out, stderr := execute(t, "status", "--nats", server, "--creds", filepath.Join(keys, "operator.nk"), "--json")
		var state fleet.State
		if err := json.Unmarshal([]byte(out), &state); code != exitOK || err != nil {
			t.Fatalf("status: %d %v %s%s", code, err, out, stderr)
		}
		for _, r := range state.Runs {
			for _, p := range r.Processes {
				if p.Role == protocol.RoleDispatcher && r.Name == "run" {
					return p.Dispatch != nil && p.Dispatch.Stage == "active" && p.Dispatch.ParamVersion == uint64(ckpt.Manifest.Updates) && p.Host != "" && p.Version != ""
				}
			}
		}
		return false
	})
	events := make(chan dispatch.Event, 10)
	following, unfollow := context.WithCancel(t.Context())
	defer unfollow()
	go func() {
		_ = operator.FollowAlarms(following, func(b []byte) {
			var e dispatch.Event
			if json.Unmarshal(b, &e) == nil {
				events <- e
			}
		})
	}()
	for i := range 5 {
		start := ""
		if i == 0 {
			start = `,"start":true`
		}
		if d, err := call(client, "decide", false, `{"stream":"a","size":100`+start+`,"loads":[0,0,0,0,0,0,0,0,0,0]}`); err != nil || d["decider"] != "policy" {
			t.Errorf("%v, %v", d, err)
		}
	}
	if _, err := call(client, "decide", false, `{}`); err == nil || !strings.Contains(err.Error(), "stream has 0 bytes") {
		t.Errorf("got %v", err)
	}
	if s, err := call(operator, "stepdown", true, `{"stage":"shadow"}`); err != nil || s["stage"] != "shadow" {
		t.Errorf("%v, %v", s, err)
	}
	waitFor(t, func() bool {
		if _, err := call(client, "decide", false, `{"stream":"b","size":100,"start":true,"loads":[9,9,9,9,9,9,9,9,9,9]}`); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-events:
			return e.Kind == "hold" && e.Hold.Guard == dispatch.ReasonQueue && e.Run == "run"
		default:
			_, _ = call(operator, "release", true, `{}`)
			return false
		}
	})
	shortly, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client.CallDispatch(shortly, "stepdown", true, []byte(`{"stage":"shadow"}`)); err == nil || client.Stats().Denied == 0 {
		t.Errorf("a client's command: %v", err)
	}

	// It is listed, with its counts; the experience is stored for the replay, marked as a dispatcher's.
	key, err := nats.NkeyOptionFromSeed(filepath.Join(keys, "operator.nk"))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(server, key, nats.CustomInboxPrefix("_INBOX_operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	reply, err := nc.RequestWithContext(t.Context(), "$SRV.STATS.dispatch", nil)
	if err != nil || !strings.Contains(string(reply.Data), `"subject":"dispatch.run.decide"`) {
		t.Errorf("%s, %v", reply.Data, err)
	}
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		info, err := js.StreamInfo("TRAJ")
		return err == nil && info.State.Msgs > 0
	})
	stored, err := js.GetMsg("TRAJ", 1)
	if err != nil {
		t.Fatal(err)
	}
	chunk, err := protocol.DecodeChunk(stored.Data, protocol.Limits{})
	if err != nil || chunk.Task != dispatch.TaskLabel || chunk.Steps != 4 || chunk.ParamVersion != uint64(ckpt.Manifest.Updates) {
		t.Errorf("%+v, %v", chunk, err)
	}

	// Queues and memories are one process's.
	if code, _, stderr := execute(t, "dispatch", "--run", "run", "--nats", server, "--creds", filepath.Join(keys, "dispatcher.nk"), "--listen", "127.0.0.1:0", "--state", t.TempDir()); code != exitFailure || !strings.Contains(stderr, protocol.ErrTaken.Error()) {
		t.Errorf("a second dispatcher: %d %s", code, stderr)
	}
	if code, text := stop(); code != exitOK || strings.Contains(text, "denied") {
		t.Errorf("dispatch ended with %d: %s", code, text)
	}
}
