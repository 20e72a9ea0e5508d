package deploy

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// example is an inventory with all its files, beside which a binary lies for the other architecture.
func example(t *testing.T) (*Inventory, *Sources) { return exampleOf(t, "fleet.yaml") }

func exampleOf(t *testing.T, inventory string) (*Inventory, *Sources) {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"actor", "actor-a", "replay", "learner"} {
		put("cluster/keys/"+key+".nk", "seed of "+key+"\n")
	}
	for _, file := range []string{"nats-server.conf", "server.pem", "server.key", "ca.pem"} {
		put("cluster/10.0.0.5/"+file, file+"\n")
	}
	put("try.yaml", "learner: {batch_size: 8}\n")
	put("a2c.yaml", "learner: {algorithm: a2c, publish_every: 1, batch_length: 16}\n")
	put("divided-config.yaml", "replay: {shards: 3}\n")
	put("dreamfleet-amd64", elfHeader(62))
	put("dreamfleet-arm64", elfHeader(183))
	text, err := os.ReadFile("testdata/" + inventory)
	if err != nil {
		t.Fatal(err)
	}
	put("fleet.yaml", string(text))
	v, err := ReadInventory(filepath.Join(dir, "fleet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadSources(v, filepath.Join(dir, "dreamfleet-"+runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	return v, s
}

// elfHeader is the header of a program for a machine.
func elfHeader(machine byte) string {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18], h[20], h[52], h[54], h[56], h[58] = 2, machine, 1, 64, 56, 0, 64
	return string(h)
}

// having is a host on which everything is as it should be.
func having(t *testing.T, s *Sources, h Host, arch string) Have {
	t.Helper()
	want, err := s.Want(h, arch)
	if err != nil {
		t.Fatal(err)
	}
	have := Have{Arch: arch, Folder: "/home/fleet/dreamfleet/try", Files: map[string]Placed{}, Units: map[string]State{}}
	for _, f := range want.Files {
		have.Files[f.Path] = Placed{f.Digest, f.Mode}
	}
	for i, unit := range want.Units {
		have.Units[unit] = State{Running: true, PID: 100 + i, Unit: have.Files["units/"+roleOf(unit)].Digest}
	}
	return have
}

// What launch would do, from what an inventory wants and a host has, to the letter.
func TestPlan(t *testing.T) {
	whole, wholeSources := example(t)
	divided, dividedSources := exampleOf(t, "divided.yaml")
	head, worker, store := whole.Hosts[0], whole.Hosts[1], divided.Hosts[1]
	for _, test := range []struct {
		name  string
		host  Host
		arch  string
		roles []string
		have  func(h *Have)
	}{
		{name: "a new host of actors", host: worker, arch: "arm64", have: func(h *Have) { *h = Have{Arch: "arm64"} }},
		{name: "a new host of everything else", host: head, arch: "amd64", have: func(h *Have) { *h = Have{Arch: "amd64"} }},
		{name: "nothing to do", host: head, arch: "amd64", have: func(*Have) {}},
		{name: "another binary", host: head, arch: "amd64", have: func(h *Have) {
			for path, f := range h.Files {
				if strings.HasPrefix(path, "bin/") {
					delete(h.Files, path)
					f.Digest = strings.Repeat("0", 64)
					h.Files["bin/dreamfleet-0000000000000000"] = f
				}
			}
			for unit, state := range h.Units {
				h.Files["units/"+unit] = Placed{strings.Repeat("1", 64), 0o600}
				state.Unit = strings.Repeat("1", 64)
				h.Units[unit] = state
			}
		}},
		{name: "another binary, one role of it", host: head, arch: "amd64", roles: []string{"replay"}, have: func(h *Have) {
			for unit, state := range h.Units {
				h.Files["units/"+unit] = Placed{strings.Repeat("1", 64), 0o600}
				state.Unit = strings.Repeat("1", 64)
				h.Units[unit] = state
			}
		}},
		{name: "one actor more and one that has died", host: worker, arch: "arm64", have: func(h *Have) {
			delete(h.Units, "actor-3")
			lost := h.Units["actor-1"]
			lost.Running, lost.Code = false, -1
			h.Units["actor-1"] = lost
		}},
		{name: "actors fewer", host: worker, arch: "arm64", have: func(h *Have) {
			h.Units["actor-10"] = h.Units["actor-1"]
			h.Units["actor-4"] = h.Units["actor-1"]
		}},
		{name: "a learner that has used its budget up", host: head, arch: "amd64", have: func(h *Have) {
			done := h.Units["learner"]
			done.Running, done.Code = false, 0
			h.Units["learner"] = done
		}},
		{name: "a learner that fails", host: head, arch: "amd64", have: func(h *Have) {
			failed := h.Units["learner"]
			failed.Running, failed.Code = false, 1
			h.Units["learner"] = failed
		}},
		{name: "a role that has moved away, and its key", host: worker, arch: "arm64", have: func(h *Have) {
			h.Files["keys/replay.nk"] = Placed{strings.Repeat("2", 64), 0o600}
			h.Files["units/replay"] = Placed{strings.Repeat("2", 64), 0o600}
			h.Units["replay"] = State{Running: true, Unit: strings.Repeat("2", 64)}
		}},
		{name: "a key that others can read", host: worker, arch: "arm64", have: func(h *Have) {
			f := h.Files["keys/actor.nk"]
			f.Mode = 0o644
			h.Files["keys/actor.nk"] = f
		}},
		{name: "a new host of two shards", host: store, arch: "amd64", have: func(h *Have) { *h = Have{Arch: "amd64"} }},
		{name: "a shard that has died", host: store, arch: "amd64", have: func(h *Have) {
			lost := h.Units["replay-3"]
			lost.Running, lost.Code = false, -1
			h.Units["replay-3"] = lost
		}},
		{name: "a shard that has moved here, and one away", host: store, arch: "amd64", have: func(h *Have) {
			h.Units["replay-1"] = h.Units["replay-2"]
			delete(h.Units, "replay-2")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, s := whole, wholeSources
			if test.host.Name == store.Name {
				v, s = divided, dividedSources
			}
			have := having(t, s, test.host, test.arch)
			test.have(&have)
			want, err := s.Want(test.host, test.arch)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, c := range Plan(test.host, v.Folder, want, have, test.roles) {
				fmt.Fprintln(&b, c)
			}
			// Paths here, and files shown elsewhere, would change the transcripts for no reason.
			got := strings.ReplaceAll(b.String(), v.dir, "HERE")
			got = strings.ReplaceAll(got, string(hostScript), "(host.sh)\n")
			got = strings.ReplaceAll(got, string(s.learner), "(the configuration)\n")
			for _, f := range want.Files {
				if f.Path == "host.sh" || f.Path == configPath {
					got = strings.ReplaceAll(got, f.Digest, "DIGEST-OF-"+filepath.Base(f.Path))
					got = strings.ReplaceAll(got, fmt.Sprintf("%s, %d bytes", f.Path, f.Size), f.Path+", some bytes")
				}
			}
			file := filepath.Join("testdata", strings.NewReplacer(" ", "-", ",", "").Replace(test.name)+".txt")
			// The learner's unit names the configuration's digest, and others name the unit's.
			for _, f := range want.Files {
				if f.Path == "units/learner" {
					got = strings.ReplaceAll(got, f.Digest, "DIGEST-OF-"+f.Path)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			transcript, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(transcript) {
				t.Errorf("%s is\n%s\nbut the plan\n%s", file, transcript, got)
			}
			if strings.Contains(got, "seed of") {
				t.Error("the plan shows a key")
			}
		})
	}
}

// What each input restarts: the roles that depend on it, and no others.
func TestInputsRestartWhatDependsOnThem(t *testing.T) {
	units := func(change func(dir string, v *Inventory)) map[string]string {
		v, _ := example(t)
		change(v.dir, v)
		s, err := ReadSources(v, filepath.Join(v.dir, "dreamfleet-"+runtime.GOARCH))
		if err != nil {
			t.Fatal(err)
		}
		digests := map[string]string{}
		for i, arch := range []string{"amd64", "arm64"} {
			want, err := s.Want(v.Hosts[i], arch)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range want.Files {
				if role, ok := strings.CutPrefix(f.Path, "units/"); ok {
					digests[role] = f.Digest
				}
			}
		}
		return digests
	}
	before := units(func(string, *Inventory) {})
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		what   string
		change func(dir string, v *Inventory)
		roles  string
	}{
		{"the configuration", func(dir string, _ *Inventory) { write(dir, "try.yaml", "learner: {batch_size: 4}") }, "learner"},
		{"the configuration's comments", func(dir string, _ *Inventory) { write(dir, "try.yaml", "learner: {batch_size: 8} # eight") }, ""},
		{"the actors' key", func(dir string, _ *Inventory) { write(dir, "cluster/keys/actor-a.nk", "another") }, "actor"},
		{"another key for the actors", func(_ string, v *Inventory) { v.Hosts[1].Key = "" }, "actor"},
		{"the learner's key", func(dir string, _ *Inventory) { write(dir, "cluster/keys/learner.nk", "another") }, "learner"},
		{"the server's certificate", func(dir string, _ *Inventory) { write(dir, "cluster/10.0.0.5/server.pem", "another") }, "nats"},
		{"the binary of one architecture", func(dir string, _ *Inventory) { write(dir, "dreamfleet-arm64", elfHeader(183)+"more") }, "actor"},
		{"a variable of the worker", func(_ string, v *Inventory) { v.Hosts[1].Env["DREAMFLEET_KERNEL"] = "avx2" }, "actor"},
		{"the number of actors", func(_ string, v *Inventory) { v.Hosts[1].Actors = 7 }, ""},
	} {
		after := units(test.change)
		var changed []string
		for role, digest := range after {
			if digest != before[role] {
				changed = append(changed, role)
			}
		}
		slices.Sort(changed)
		if got := strings.Join(changed, " "); got != test.roles {
			t.Errorf("%s restarts %q, want %q", test.what, got, test.roles)
		}
	}
}

// What is quoted is one word to a real shell.
func TestQuote(t *testing.T) {
	for _, word := range []string{"plain", "", "two words", "it's", `"\$HOME`, "`id`", "$(id)", "a;b|c&d", "*", "~", "=x", "--", "new\nline", "ü"} {
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q comes out as %q, %v", word, out, err)
		}
	}
}

// A command as printed does what the command does.
func TestPrintedCommandIsPasteable(t *testing.T) {
	dir := t.TempDir()
	ssh := filepath.Join(dir, "ssh") // which runs its last argument here
	if err := os.WriteFile(ssh, []byte("#!/bin/sh\nfor last; do :; done\ncd "+quote(dir)+" && exec sh -c \"$last\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "it's\nEND\n$HOME `id`\n"
	first := push(Host{Name: "a", Address: "a"}, "fol der", content("etc/a b", 0o640, []byte(text)))
	second := within(Host{Name: "a", Address: "a"}, "fol der", "copy", "cp", "etc/a b", "etc/it's")
	cmd := exec.Command("/bin/sh")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(first.String() + "\n" + second.String()) // pasted
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	copied := filepath.Join(dir, "fol der", "etc", "it's")
	if got, err := os.ReadFile(copied); err != nil || string(got) != text {
		t.Errorf("the host has %q, %v", got, err)
	}
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	// One that arrives cut short takes no file's place.
	cut := push(Host{Name: "a", Address: "a"}, "fol der", content("etc/a b", 0o640, []byte("other")))
	cut.Content = []byte("oth\n")
	cmd = exec.Command("/bin/sh")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader(cut.String())
	if err := cmd.Run(); err == nil {
		t.Error("a file that was cut short is taken")
	}
	if got, err := os.ReadFile(filepath.Join(dir, "fol der", "etc", "a b")); err != nil || string(got) != text {
		t.Errorf("the host has %q, %v", got, err)
	}
}

// A fleet goes on past a host that cannot be reached, asks at most so many at a time, and says at the
// end who was missing.
func TestFleetGoesOnPastAHost(t *testing.T) {
	v, s := example(t)
	v.Hosts[1].Roles, v.Hosts[2].Roles = nil, nil
	var out bytes.Buffer
	var mu sync.Mutex
	at, most := 0, 0
	f := Fleet{Inventory: v, Hosts: v.Hosts, Parallel: 2, DryRun: true, Out: &out, Run: func(_ context.Context, c Command, out io.Writer) error {
		mu.Lock()
		at++
		most = max(most, at)
		mu.Unlock()
		defer func() { mu.Lock(); at--; mu.Unlock() }()
		if c.Host.Name == "worker-a" {
			return fmt.Errorf("%w: no route to host", ErrUnreachable)
		}
		_, err := io.WriteString(out, "system Linux x86_64\n")
		return err
	}}
	err := f.Launch(t.Context(), s)
	if !errors.Is(err, ErrUnreachable) || err.Error() != "1 of 3 hosts failed:\nworker-a: cannot be reached: no route to host" {
		t.Errorf("%v", err)
	}
	if text := out.String(); !strings.Contains(text, "# head: start ") || !strings.Contains(text, "# worker-b: start ") {
		t.Errorf("the others: %s", text)
	}
	if most > 2 {
		t.Errorf("%d hosts at a time", most)
	}
}
