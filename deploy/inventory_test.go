package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func TestInventoryFaults(t *testing.T) {
	const head = "run: try\nhosts: [{name: a, roles: [nats, replay, learner], bus: '127.0.0.1:4222'}]\n"
	for _, test := range []struct{ text, want string }{
		{head, ""},
		{"", "the file is empty"},
		{"run: try\n", "hosts is empty"},
		{"run: a.b\nhosts: [{name: a}]", `run is "a.b"`},
		{head + "kyes: keys\n", "key kyes not found in an inventory"},
		{"run: try\nhosts: [{name: a, role: nats}]", "key role not found of a host"},
		{head + "---\n", "more than one YAML document"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, actors: 1}, {name: a}]", `host "a" is there twice`},
		{"run: try\nnats: nats://b\nhosts: [{name: a.example}]", "what ssh connects to stands under address"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, address: -oProxyCommand=x}]", `address is "-oProxyCommand=x"`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, address: me@b}]", "with user and port apart"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, user: -x}]", `user is "-x"`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, port: 70000}]", "port is 70000"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, actors: -1}]", "actors is -1"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [actor]}]", "actors: 4"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [worker]}]", `role "worker": want nats, replay or learner`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, service: upstart}]", `service is "upstart"`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, monitor: ':9464'}]", `monitor is ":9464": want HOST:PORT`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, monitor: '0.0.0.0:65000'}]", "with a port up to 64412"},
		{"run: try\nnats: nats://b\ndefaults: {monitor: '[::1]:64412'}\nhosts: [{name: a}]", ""},
		{"run: try\nnats: nats://b\nhosts: [{name: a, options: [ProxyJump]}]", "want KEY=VALUE"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, env: {A-B: x}}]", "A-B"},
		{"run: try\nhosts: [{name: a, actors: 1}]", "nats is empty and no host has role nats"},
		{"run: try\nnats: http://u:secret@b\nhosts: [{name: a}]", `"...@b": want nats://`},
		{"run: try\nhosts: [{name: a, roles: [nats]}]", "would let anyone in who reaches a:4222"},
		{head + "nats: nats://b\n", "servers are that no host has"},
		{"run: try\nhosts: [{name: a, roles: [nats], bus: '127.0.0.1:1'}, {name: b, roles: [nats]}]", "2 hosts have role nats, which makes them a cluster"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [learner]}, {name: b, roles: [learner]}]", ""},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [replay]}, {name: b, roles: [replay]}]", `host "a": it is one of 2 replays and does not say which: give it shards: [1]`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [replay], shards: [1]}, {name: b, roles: [replay], shards: [1]}]", `host "b": shard 1 is host "a"'s too`},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [replay], shards: [1, 3]}]", "shards has 3, and there are 2 replays"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, shards: [1]}]", "shards is [1], and the host has no role replay"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, roles: [replay], shards: [2, 1]}]", ""},
		{"run: try\nnats: nats://b\npreset: small\nhosts: [{name: a, actors: 1}]", "no host has role learner"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, bus: 'b:1'}]", "has no role nats"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, key: actor-x}]", "there is no cluster"},
		{"run: try\nnats: nats://b\nhosts: [{name: a, key: ../x}]", `key is "../x"`},
		{head + "binary: {sparc: x}\n", `architecture "sparc"`},
		{head + "folder: ~/x\n", `folder is "~/x"`},
		{head + "defaults: {actors: 2}\n", "each host's own"},
	} {
		_, err := parseInventory([]byte(test.text))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s\n%v, want %q", test.text, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

// What is wrong with files shows before any host is asked.
func TestSourcesFaults(t *testing.T) {
	v, _ := example(t)
	running := filepath.Join(v.dir, "dreamfleet-amd64")
	for _, test := range []struct {
		change func()
		want   string
	}{
		{func() { v.Config = "none.yaml" }, "none.yaml"},
		{func() { v.Config = "fleet.yaml" }, "unknown key"},
		{func() { v.Config, v.Cluster = "try.yaml", "nowhere" }, "nowhere"},
		{func() { v.Config, v.Cluster = "divided-config.yaml", "cluster" }, "the configuration has replay.shards: 3, and the hosts of role replay have 1"},
		{func() { v.Config = "a2c.yaml" }, `host "head" has role replay, and the configuration has learner.algorithm: a2c`},
		{func() { v.Config = "try.yaml"; v.Hosts[0].Shards = []int{1, 2} }, "the configuration has replay.shards: 1, and the hosts of role replay have 2"},
		{func() { v.Hosts[0].Shards = nil; v.Binary["arm64"] = "dreamfleet-amd64" }, "no program for Linux on arm64"},
	} {
		test.change()
		if _, err := ReadSources(v, running); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	delete(v.Binary, "arm64")
	s, err := ReadSources(v, running)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Want(v.Hosts[1], "arm64"); err == nil || !strings.Contains(err.Error(), "binary: {arm64: PATH}") {
		t.Errorf("%v", err)
	}
}

func TestSelect(t *testing.T) {
	v, _ := example(t)
	for _, test := range []struct{ selectors, names string }{
		{"", "head worker-a worker-b"}, {"zone=a", "worker-a"}, {"worker-b zone=a worker-b", "worker-a worker-b"},
	} {
		hosts, err := v.Select(strings.Fields(test.selectors))
		var names []string
		for _, h := range hosts {
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != test.names {
			t.Errorf("%q selects %q, %v", test.selectors, got, err)
		}
	}
	if _, err := v.Select([]string{"zone=c"}); !errors.Is(err, ErrInventory) || !strings.Contains(err.Error(), "the hosts are head, worker-a, worker-b") {
		t.Errorf("%v", err)
	}
}

// Scaling changes the numbers and not another byte.
func TestScale(t *testing.T) {
	v, _ := example(t)
	before, err := os.ReadFile(v.path)
	if err != nil {
		t.Fatal(err)
	}
	names, err := v.Scale([]string{"worker-b=12", "worker-a=0"}, false)
	if err != nil || strings.Join(names, " ") != "worker-b worker-a" {
		t.Fatal(names, err)
	}
	want := strings.NewReplacer("actors: 3\n", "actors: 0\n", "actors: 1, labels", "actors: 12, labels").Replace(string(before))
	if got, err := os.ReadFile(v.path); err != nil || string(got) != want {
		t.Errorf("got\n%s\nwant\n%s%v", got, want, err)
	}
	again, err := ReadInventory(v.path)
	if err != nil || again.Hosts[1].Actors != 0 || again.Hosts[2].Actors != 12 || v.Hosts[2].Actors != 12 {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := v.Scale([]string{"worker-a=5"}, true); err != nil || v.Hosts[1].Actors != 5 {
		t.Errorf("a dry run: %v", err)
	}
	for _, test := range []struct{ change, want string }{
		{"worker-a", "want HOST=N"}, {"worker-a=-1", "want HOST=N"}, {"worker-c=1", "no host is named worker-c"}, {"head=1", "give it actors: 1"},
	} {
		if _, err := v.Scale([]string{test.change}, false); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.change, err)
		}
	}
	if got, err := os.ReadFile(v.path); err != nil || string(got) != want {
		t.Errorf("what is refused or dry has changed the file to\n%s%v", got, err)
	}
}

// Whatever a host says is read or refused.
func FuzzHave(f *testing.F) {
	f.Add([]byte("Welcome!\nsystem Linux x86_64\nfolder /home/a b\nfile " + strings.Repeat("0", 64) + " 600 keys/actor.nk\nunit actor-1 running 12 34 - bin/x\nversion bin/x v1\n"))
	f.Add([]byte("system Linux aarch64\nunit learner ended 0 0 a b\nunit replay lost 0 0 a b\n"))
	f.Add([]byte("system Darwin arm64\n"))
	f.Fuzz(func(t *testing.T, told []byte) {
		h, err := parseHave(told)
		if err == nil && h.Arch != "amd64" && h.Arch != "arm64" {
			t.Errorf("architecture %q", h.Arch)
		}
		for unit := range h.Units {
			if !unitName.MatchString(unit) {
				t.Errorf("unit %q", unit)
			}
		}
	})
}

// No two processes of a host serve at the same port, and a shell finds those of actors and shards.
func TestMonitorPorts(t *testing.T) {
	v, _ := example(t)
	h := v.Hosts[0]
	h.Monitor, h.Actors, h.Shards = "[fd00::5]:9464", 3, nil
	for i := range protocol.MaxShards {
		h.Shards = append(h.Shards, i+1)
	}
	taken := map[string]string{}
	for _, unit := range h.units() {
		cmd := exec.Command("sh", "-c", "number=${1#*-}; echo "+monitorAddress(h, roleOf(unit)), "sh", unit)
		out, err := cmd.Output()
		address := strings.TrimSpace(string(out))
		if err != nil || !strings.HasPrefix(address, "[fd00::5]:9") || taken[address] != "" {
			t.Errorf("%s serves at %s, as does %q: %v", unit, address, taken[address], err)
		}
		taken[address] = unit
	}
	for address, unit := range map[string]string{"9464": "nats", "9465": "learner", "9466": "replay-1", "9529": "replay-64", "9564": "actor-1", "9566": "actor-3"} {
		if got := taken["[fd00::5]:"+address]; got != unit {
			t.Errorf("%s serves at port %s, want %s", got, address, unit)
		}
	}
}
