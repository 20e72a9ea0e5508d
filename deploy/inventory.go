package deploy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// ErrInventory is the cause of every error about an inventory's text or values.
var ErrInventory = errors.New("inventory")

// Roles of a host; its actors are counted apart.
const (
	RoleNATS    = "nats"
	RoleReplay  = "replay"
	RoleLearner = "learner"
	RoleActor   = "actor"
)

// Bounds of what is read: an inventory of 10 000 hosts has 1 MB.
const (
	maxInventory = 4 << 20
	maxActors    = 1024
	// maxHostName leaves room for the number of an actor in protocol.MaxName.
	maxHostName = protocol.MaxName - 5
)

// Inventory says where the roles of one run are played. Paths are relative to its file.
type Inventory struct {
	// Run is the run's name on the bus.
	Run string `yaml:"run"`
	// Preset and Config are the learner's: the preset's name, small if empty, and a file over it.
	Preset string `yaml:"preset"`
	Config string `yaml:"config"`

	// NATS are the addresses of servers that are none of the hosts'. Where hosts have role nats, roles
	// connect to these.
	NATS string `yaml:"nats"`
	// Cluster is a folder that dreamfleet nats init --install etc has written: keys/<role>.nk, of which each
	// host is given those of its roles, and for each host of role nats a configuration and a certificate.
	// Without it nobody authenticates, and a server must be reached on loopback.
	Cluster string `yaml:"cluster"`

	// Binary is what to push: a path for each architecture, amd64 or arm64. One that is missing is the
	// running binary, where that is of this architecture.
	Binary map[string]string `yaml:"binary"`
	// Folder is where everything lies on the hosts, relative to the user's home. Empty: dreamfleet/RUN.
	Folder string `yaml:"folder"`

	// Defaults hold for hosts that do not say otherwise; Env and Labels are merged, Options joined.
	Defaults Host   `yaml:"defaults"`
	Hosts    []Host `yaml:"hosts"`

	servers string // addresses of role nats
	path    string
	dir     string
}

// Host is one machine and what it plays.
type Host struct {
	// Name is what the host is called here and on the bus, its actors HOST-1, HOST-2 and so on.
	Name string `yaml:"name"`
	// Address is what ssh connects to: a name, an address, or a Host of ssh's own configuration.
	// Empty: the name.
	Address  string   `yaml:"address"`
	User     string   `yaml:"user"`     // empty: ssh's own choice
	Port     int      `yaml:"port"`     // 0: ssh's own choice
	Identity string   `yaml:"identity"` // file of the private key; empty: ssh's own choice
	Options  []string `yaml:"options"`  // of ssh -o, such as ProxyJump=gate

	// Roles are any of nats, replay and learner. Of several learners one leads, and the others stand by.
	Roles []string `yaml:"roles"`
	// Shards are which of the run's replays the host of role replay has, from 1, each a process of its
	// own. Empty: the run has one replay, and this is it.
	Shards []int `yaml:"shards"`
	// Bus is where the others reach the server of role nats, HOST:PORT. Empty: port 4222 of the address.
	Bus string `yaml:"bus"`

	// Monitor is where its processes serve metrics and health, HOST:PORT: each at a port of its own, counted
	// from this one, see monitorPort. Empty: from port 9464 of loopback.
	Monitor string `yaml:"monitor"`

	Actors int               `yaml:"actors"` // processes
	Key    string            `yaml:"key"`    // of the actors, if not actor: a name of nats init --key
	Labels map[string]string `yaml:"labels"` // for --on
	Env    map[string]string `yaml:"env"`    // of all roles
	// Service is nohup, the default, or systemd: units of the user, or of the system for root, which
	// start with the machine.
	Service string `yaml:"service"`
}

// Services of a host.
const (
	ServiceNohup   = "nohup"
	ServiceSystemd = "systemd"
)

// ReadInventory reads and checks an inventory.
func ReadInventory(path string) (*Inventory, error) {
	document, err := readBounded(path, maxInventory)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	v, err := parseInventory(document)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInventory, path, err)
	}
	v.path, v.dir = path, dir
	return v, nil
}

func parseInventory(document []byte) (*Inventory, error) {
	v := &Inventory{}
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	decoder.KnownFields(true)
	if err := decoder.Decode(v); err == io.EOF {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		why := strings.TrimPrefix(err.Error(), "yaml: ")
		why = strings.ReplaceAll(strings.TrimPrefix(why, "unmarshal errors:\n  "), "\n  ", "; ")
		return nil, errors.New(strings.NewReplacer("in type deploy.Inventory", "in an inventory", "in type deploy.Host", "of a host", "field ", "key ").Replace(why))
	}
	if err := decoder.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("the file holds more than one YAML document")
	}
	v.fill()
	return v, v.check()
}

func (v *Inventory) fill() {
	d := v.Defaults
	for i := range v.Hosts {
		h := &v.Hosts[i]
		h.Address = cmp.Or(h.Address, h.Name)
		h.User = cmp.Or(h.User, d.User)
		h.Port = cmp.Or(h.Port, d.Port)
		h.Identity = cmp.Or(h.Identity, d.Identity)
		h.Service = cmp.Or(h.Service, d.Service, ServiceNohup)
		h.Monitor = cmp.Or(h.Monitor, d.Monitor, "127.0.0.1:9464")
		h.Options = slices.Concat(h.Options, d.Options) // of two, ssh takes the first
		h.Labels = merged(d.Labels, h.Labels)
		h.Env = merged(d.Env, h.Env)
	}
	v.Folder = cmp.Or(v.Folder, "dreamfleet/"+v.Run)
	var servers []string
	for i := range v.Hosts {
		if h := &v.Hosts[i]; slices.Contains(h.Roles, RoleNATS) {
			h.Bus = cmp.Or(h.Bus, net.JoinHostPort(h.Address, "4222"))
			servers = append(servers, v.scheme()+h.Bus)
		}
	}
	v.servers = strings.Join(servers, ",")
}

func (v *Inventory) scheme() string {
	if v.Cluster != "" {
		return "tls://"
	}
	return "nats://"
}

// URL are the addresses of the servers.
func (v *Inventory) URL() string { return cmp.Or(v.servers, v.NATS) }

// local tells whether an address is only this machine's.
func local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (v *Inventory) check() error {
	if !protocol.ValidName(v.Run) {
		return fmt.Errorf("run is %q: a run's name has 1 to %d of the characters A-Z a-z 0-9 _ -", v.Run, protocol.MaxName)
	}
	if len(v.Hosts) == 0 {
		return errors.New("hosts is empty: name at least one host")
	}
	d := v.Defaults
	if d.Name != "" || d.Address != "" || len(d.Roles) > 0 || len(d.Shards) > 0 || d.Actors != 0 {
		return errors.New("defaults has a name, an address, roles, shards or actors, which are each host's own")
	}
	names := map[string]bool{}
	count := map[string]int{}
	for _, h := range v.Hosts {
		if err := h.check(); err != nil {
			return fmt.Errorf("host %q: %w", h.Name, err)
		}
		if names[h.Name] {
			return fmt.Errorf("host %q is there twice", h.Name)
		}
		names[h.Name] = true
		for _, role := range h.Roles {
			count[role]++
		}
	}
	if err := v.checkShards(); err != nil {
		return err
	}
	if count[RoleLearner] == 0 && (v.Preset != "" || v.Config != "") {
		return errors.New("preset and config are the learner's, and no host has role learner")
	}
	switch servers := count[RoleNATS]; {
	case servers > 0 && v.NATS != "":
		return errors.New("nats says where servers are that no host has, and there are hosts with role nats: what others reach these by stands under the host's bus")
	case servers == 0:
		if err := checkAddresses(v.NATS); err != nil {
			return err
		}
	case servers > 1 && v.Cluster == "":
		return fmt.Errorf("%d hosts have role nats, which makes them a cluster: give the folder that dreamfleet nats init has written, as cluster", servers)
	}
	for _, h := range v.Hosts {
		if h.Key != "" && v.Cluster == "" {
			return fmt.Errorf("host %q: key is %q, which is one of a cluster's, and there is no cluster", h.Name, h.Key)
		}
		if slices.Contains(h.Roles, RoleNATS) && v.Cluster == "" && !local(h.Bus) {
			return fmt.Errorf("host %q: its server would let anyone in who reaches %s: give the folder that dreamfleet nats init has written, as cluster, or, where all hosts are one machine, bus: 127.0.0.1:4222", h.Name, h.Bus)
		}
	}
	for arch := range v.Binary {
		if arch != "amd64" && arch != "arm64" {
			return fmt.Errorf("binary has architecture %q: want amd64 or arm64", arch)
		}
	}
	if unprintable(v.Folder) || strings.HasPrefix(v.Folder, "-") || strings.HasPrefix(v.Folder, "~") {
		return fmt.Errorf("folder is %q: want a path, from the user's home unless it begins with /", v.Folder)
	}
	return nil
}

// replays is how many replays there are: the run's shards, 1 where it is not divided, 0 where no host has
// role replay.
func (v *Inventory) replays() (n int) {
	for _, h := range v.Hosts {
		if slices.Contains(h.Roles, RoleReplay) {
			n += max(1, len(h.Shards))
		}
	}
	return n
}

// checkShards sees that of several replays each has a number of its own.
func (v *Inventory) checkShards() error {
	n := v.replays()
	at := map[int]string{}
	for _, h := range v.Hosts {
		if slices.Contains(h.Roles, RoleReplay) && len(h.Shards) == 0 && n > 1 {
			return fmt.Errorf("host %q: it is one of %d replays and does not say which: give it shards: [1], or [1, 2] where it has two, and replay.shards: %d in the configuration", h.Name, n, n)
		}
		for _, shard := range h.Shards {
			if shard < 1 || shard > n {
				return fmt.Errorf("host %q: shards has %d, and there are %d replays: number them from 1 to %d", h.Name, shard, n, n)
			}
			if other, ok := at[shard]; ok {
				return fmt.Errorf("host %q: shard %d is host %q's too: number the %d replays from 1 to %d, each once", h.Name, shard, other, n, n)
			}
			at[shard] = h.Name
		}
	}
	return nil
}

// checkReplays compares with what the learner is told.
func (v *Inventory) checkReplays(cfg protocol.Config) error {
	switch n, host := v.replays(), v.find(RoleReplay); {
	case n == 0:
		return nil
	case cfg.Learner.Algorithm == protocol.A2C:
		return fmt.Errorf("%w: host %q has role replay, and the configuration has learner.algorithm: %s, which needs none", ErrInventory, host.Name, protocol.A2C)
	case n != cfg.Replay.Shards:
		return fmt.Errorf("%w: the configuration has replay.shards: %d, and the hosts of role replay have %d: number them under shards from 1 to %d", ErrInventory, cfg.Replay.Shards, n, cfg.Replay.Shards)
	}
	return nil
}

func (h *Host) check() error {
	switch {
	case len(h.Name) > maxHostName || !protocol.ValidName(h.Name):
		return fmt.Errorf("a host's name has 1 to %d of the characters A-Z a-z 0-9 _ -; what ssh connects to stands under address", maxHostName)
	case unprintable(h.Address) || strings.HasPrefix(h.Address, "-") || strings.ContainsAny(h.Address, " /@"):
		return fmt.Errorf("address is %q: want a name or an address, with user and port apart", h.Address)
	case unprintable(h.User) || strings.HasPrefix(h.User, "-") || strings.ContainsAny(h.User, " @"):
		return fmt.Errorf("user is %q: want the name of a user", h.User)
	case h.Port < 0 || h.Port > 65535:
		return fmt.Errorf("port is %d: want 1 to 65535", h.Port)
	case h.Actors < 0 || h.Actors > maxActors:
		return fmt.Errorf("actors is %d: want 0 to %d", h.Actors, maxActors)
	case h.Key != "" && (!strings.HasPrefix(h.Key, RoleActor) || strings.ContainsAny(h.Key, "/.") || unprintable(h.Key)):
		return fmt.Errorf("key is %q: want the name of an actors' key, such as actor-paris or actor@small", h.Key)
	case len(h.Shards) > 0 && !slices.Contains(h.Roles, RoleReplay):
		return fmt.Errorf("shards is %v, and the host has no role replay", h.Shards)
	case h.Bus != "" && !slices.Contains(h.Roles, RoleNATS):
		return fmt.Errorf("bus is %q, and the host has no role nats", h.Bus)
	case h.Bus != "" && !hostPort(h.Bus):
		return fmt.Errorf("bus is %q: want HOST:PORT", h.Bus)
	case !hostPort(h.Monitor) || monitorPort(h.Monitor, RoleActor, maxActors) > 65535:
		return fmt.Errorf("monitor is %q: want HOST:PORT with a port up to %d, from which those of all roles are counted", h.Monitor, 65535-monitorPort("x:0", RoleActor, maxActors))
	case h.Service != ServiceNohup && h.Service != ServiceSystemd:
		return fmt.Errorf("service is %q: want %s or %s", h.Service, ServiceNohup, ServiceSystemd)
	case unprintable(h.Identity):
		return fmt.Errorf("identity is %q: want a file", h.Identity)
	}
	for i, role := range h.Roles {
		if role == RoleActor {
			return errors.New("actors are no role here but a number: actors: 4")
		}
		if !slices.Contains([]string{RoleNATS, RoleReplay, RoleLearner}, role) {
			return fmt.Errorf("role %q: want nats, replay or learner; actors: 4 gives it four actors", role)
		}
		if slices.Contains(h.Roles[:i], role) {
			return fmt.Errorf("role %s is given twice", role)
		}
	}
	for _, option := range h.Options {
		if unprintable(option) || !strings.Contains(option, "=") {
			return fmt.Errorf("option %q: want KEY=VALUE, as for ssh -o", option)
		}
	}
	for name, value := range h.Env {
		if !variableName.MatchString(name) || strings.ContainsRune(value, 0) {
			return fmt.Errorf("env has %q: want the name of a variable", name)
		}
	}
	return nil
}

// monitorPort is where a process serves metrics and health, counted from the port of the host's address so
// that none is another's: the server first, learner and replay, or replay 1, after it, actor 1 a hundred on.
func monitorPort(base, role string, number int) int {
	_, port, _ := net.SplitHostPort(base) // it has been checked
	first, _ := strconv.Atoi(port)
	switch role {
	case RoleLearner:
		return first + 1
	case RoleReplay:
		return first + 2 + max(0, number-1)
	case RoleActor:
		return first + 100 + number - 1
	}
	return first
}

func hostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && n > 0 && host != "" && !unprintable(s) && !strings.ContainsAny(s, " /@,")
}

func checkAddresses(list string) error {
	if list == "" {
		return errors.New("nats is empty and no host has role nats: say where the bus is")
	}
	for _, address := range strings.Split(list, ",") {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return fmt.Errorf("nats has %q: want nats://HOST:PORT or tls://HOST:PORT", withoutPassword(address))
		}
	}
	return nil
}

// withoutPassword keeps what may be a secret out of messages.
func withoutPassword(address string) string {
	if at := strings.LastIndex(address, "@"); at >= 0 {
		return "..." + address[at:]
	}
	return address
}

// find returns the first host that has a role.
func (v *Inventory) find(role string) *Host {
	for i := range v.Hosts {
		if slices.Contains(v.Hosts[i].Roles, role) {
			return &v.Hosts[i]
		}
	}
	return nil
}

// Select returns the hosts that any of the selectors names, a host's NAME or LABEL=VALUE; all of them
// if there are none. One that selects nobody is an error.
func (v *Inventory) Select(selectors []string) ([]Host, error) {
	if len(selectors) == 0 {
		return v.Hosts, nil
	}
	chosen := make([]bool, len(v.Hosts))
	for _, s := range selectors {
		hit := false
		label, value, isLabel := strings.Cut(s, "=")
		for i, h := range v.Hosts {
			have, ok := h.Labels[label]
			if h.Name == s || isLabel && ok && have == value {
				chosen[i], hit = true, true
			}
		}
		if !hit {
			return nil, fmt.Errorf("%w: no host is named or labelled %q; the hosts are %s", ErrInventory, s, strings.Join(v.names(), ", "))
		}
	}
	var hosts []Host
	for i, h := range v.Hosts {
		if chosen[i] {
			hosts = append(hosts, h)
		}
	}
	return hosts, nil
}

// CheckRoles refuses what is the name of no role.
func CheckRoles(roles []string) error {
	for _, role := range roles {
		if !slices.Contains([]string{RoleNATS, RoleReplay, RoleLearner, RoleActor}, role) {
			return fmt.Errorf("%w: role %q: want nats, replay, learner or actor", ErrInventory, role)
		}
	}
	return nil
}

func (v *Inventory) names() []string {
	names := make([]string, len(v.Hosts))
	for i, h := range v.Hosts {
		names[i] = h.Name
	}
	return names
}

// Path is where a file of the inventory lies on this machine.
func (v *Inventory) Path(file string) string {
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(v.dir, file)
}

// Key is the file of a key on this machine, empty where there are none.
func (v *Inventory) Key(name string) string {
	if v.Cluster == "" {
		return ""
	}
	return filepath.Join(v.Path(v.Cluster), "keys", name+".nk")
}

// Configuration is the learner's, preset and file over it, checked; its Run is the inventory's.
func (v *Inventory) Configuration() (protocol.Config, error) {
	cfg, err := protocol.PresetConfig(cmp.Or(v.Preset, "small"))
	if err != nil {
		return cfg, err
	}
	if v.Config != "" {
		path := v.Path(v.Config)
		document, err := readBounded(path, protocol.MaxConfigBytes)
		if err != nil {
			return cfg, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
		}
		if err := cfg.Merge(path, document); err != nil {
			return cfg, err
		}
	}
	if cfg.Run != "" && cfg.Run != v.Run {
		return cfg, fmt.Errorf("%w: run is %s in the configuration and %s in the inventory", protocol.ErrConfig, cfg.Run, v.Run)
	}
	if cfg.Lockstep {
		return cfg, fmt.Errorf("%w: lockstep needs all roles in one process: use 'dreamfleet train'", protocol.ErrConfig)
	}
	cfg.Run, cfg.Bus.URL, cfg.Bus.Creds, cfg.Bus.CA = v.Run, "", "", "" // each host's own
	return cfg, cfg.Validate()
}

// readBounded reads a file that has at most so many bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return content, err
}

func unprintable(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func merged(base, over map[string]string) map[string]string {
	m := maps.Clone(base)
	if m == nil {
		m = map[string]string{}
	}
	maps.Copy(m, over)
	return m
}
