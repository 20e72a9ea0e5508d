//go:build !race

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// writesNext in the environment has the program of nextRelease write the messages' new versions.
const writesNext = "TEST_WRITES_NEXT"

// nextRelease is the program with a new version of every message: of this source, in which each has one field more.
// It reads both versions. Which one it writes the environment says, as two releases after one another would do.
func nextRelease(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replaced := map[string]string{}
	change := func(file string, pairs ...string) {
		t.Helper()
		path, err := filepath.Abs(filepath.Join("..", "..", "protocol", file))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		source := string(text)
		for i := 0; i < len(pairs); i += 2 {
			if strings.Count(source, pairs[i]) != 1 {
				t.Fatalf("%s has %q %d times: this test must follow", path, pairs[i], strings.Count(source, pairs[i]))
			}
			source = strings.Replace(source, pairs[i], pairs[i+1], 1)
		}
		replaced[path] = filepath.Join(dir, file)
		write(t, replaced[path], source)
	}
	change("chunk.go", "layout{[]int{20}, 1}", "layout{[]int{20, 21}, wire}")
	change("batch.go", "layout{[]int{13}, 1}, layout{[]int{3}, 1}, layout{[]int{2}, 1}",
		"layout{[]int{13, 14}, wire}, layout{[]int{3, 4}, wire}, layout{[]int{2, 3}, wire}")
	change("params.go", `paramFormat = "2"`, "none = 0", `var paramFormats = []string{"2"}`, `
		var paramFormat, paramFormats = strconv.Itoa(int(wire) + 1), []string{"2", "3"}`)
	change("codec.go",
		"\t\"io\"\n", "\t\"io\"\n\t\"os\"\n",
		"var castagnoli", "var wire = uint8(1 + len(os.Getenv(\""+writesNext+"\")))\n\nvar castagnoli",
		"func (e *encoder) seal() ([]byte, error) {\n", `func (e *encoder) seal() ([]byte, error) {
			if e.b[e.start+offsetVersion] == 2 {
				e.uint(7)
			}
		`,
		"func (d *decoder) close() error {\n", `func (d *decoder) close() error {
			if d.err == nil && d.b[offsetVersion] == 2 && d.uint("next", 7) != 7 {
				d.fail("next", ErrCorrupt)
			}
		`)
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay.json"), string(overlay))
	program := filepath.Join(dir, "next")
	build := exec.Command("go", "build", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// A fleet is upgraded over two releases, role by role and in any order, and never stops training: to one that reads
// a new version of every message and writes the old one, and to one that writes the new one.
func TestRollingUpgrade(t *testing.T) {
	next := nextRelease(t)
	base := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	server := startNATS(ctx, t, &wg, base)
	args := map[protocol.Role][]string{
		protocol.RoleActor:  {"actor", "--run", "fleet", "--nats", server, "--name", "role"},
		protocol.RoleReplay: {"replay", "--run", filepath.Join(base, "store", "fleet"), "--nats", server, "--name", "role"},
		protocol.RoleLearner: append([]string{"learner", "--nats", server, "--run", filepath.Join(base, "fleet"), "--steps", "1000000000", "--duration", "0s", "--standby",
			"--set", "actor.context_stride=4"}, tiny...), // so that there are contexts to refresh
	}
	written := watchVersions(t, server)
	roles := map[protocol.Role]*process{}
	for role, args := range args {
		roles[role] = startProcess(t, args...)
	}
	operator, err := protocol.Connect(ctx, protocol.BusConfig{URL: server, Run: "fleet", Role: protocol.RoleOperator, Name: "test"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	// now is what the present processes of the roles say of themselves, nil until all do.
	now := func() map[protocol.Role]protocol.Status {
		beats, err := operator.Heartbeats(ctx)
		if err != nil {
			return nil
		}
		said := map[protocol.Role]protocol.Status{}
		for _, h := range beats {
			if p := roles[h.Role]; p == nil || p.Process.Pid != h.Status.PID {
				continue
			}
			said[h.Role] = h.Status
			for _, refused := range []map[string]uint64{h.Status.Bus.Refused, h.Status.Bus.DeadLettered} {
				for reason, n := range refused {
					if n > 0 {
						t.Fatalf("%s has refused %d messages: %s\n%s", h.Role, n, reason, &roles[h.Role].out)
					}
				}
			}
		}
		if len(said) < len(roles) {
			return nil
		}
		return said
	}
	// A busy machine takes its time for ten starts.
	wait := func(ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Minute); !ok(); <-time.After(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("waited for 5 minutes in vain")
			}
		}
	}
	// trains waits until steps have gone from the actor to the learner, and what came of them back.
	trains := func() {
		t.Helper()
		var from map[protocol.Role]protocol.Status
		wait(func() bool { from = now(); return from != nil })
		wait(func() bool {
			to := now()
			return to != nil && to[protocol.RoleReplay].Replay.Inserted > from[protocol.RoleReplay].Replay.Inserted &&
				to[protocol.RoleLearner].Learner.Updates > from[protocol.RoleLearner].Learner.Updates &&
				to[protocol.RoleActor].Actor.ParamVersion > max(from[protocol.RoleActor].Actor.ParamVersion, from[protocol.RoleLearner].Learner.ParamVersion)
		})
	}
	trains()
	for _, release := range []struct {
		variable string
		order    []protocol.Role
	}{
		{writesNext + "=", []protocol.Role{protocol.RoleActor, protocol.RoleLearner, protocol.RoleReplay}},
		{writesNext + "=1", []protocol.Role{protocol.RoleReplay, protocol.RoleActor, protocol.RoleLearner}},
		{writesNext + "=", []protocol.Role{protocol.RoleLearner, protocol.RoleReplay, protocol.RoleActor}}, // and back
	} {
		for _, role := range release.order {
			roles[role].signal(t, syscall.SIGTERM)
			if code := roles[role].end(t); code != exitOK {
				t.Fatalf("%s ended with %d: %s", role, code, &roles[role].out)
			}
			roles[role] = startProgram(t, next, release.variable, args[role]...)
			trains()
		}
	}
	const want = "DFTB 1 DFTB 2 DFTC 1 DFTC 2 DFTQ 1 DFTQ 2 DFTR 1 DFTR 2 params 2 params 3"
	if got := written(); got != want {
		t.Errorf("on the wire were %s, want %s", got, want)
	}
}

// watchVersions returns what tells which messages have gone over the wire, and in which versions.
func watchVersions(t *testing.T, server string) (seen func() string) {
	t.Helper()
	nc, err := nats.Connect(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	var mu sync.Mutex
	versions := map[string]bool{}
	_, err = nc.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if format := m.Header.Get("Df-Format"); format != "" {
			versions["params "+format] = true
		} else if len(m.Data) > 6 && m.Data[0] == 0x95 && strings.HasPrefix(string(m.Data[2:6]), "DFT") {
			versions[fmt.Sprintf("%s %d", m.Data[2:6], m.Data[6])] = true
		}
	})
	if err == nil {
		err = nc.FlushTimeout(10 * time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(slices.Sorted(maps.Keys(versions)), " ")
	}
}
