package deploy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/elf"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

//go:embed host.sh
var hostScript []byte

// File is what should lie on a host. Content is nil for one that is pushed from this machine.
type File struct {
	Path    string // within the run's folder
	Mode    fs.FileMode
	Local   string
	Content []byte
	Digest  string // SHA-256, in hexadecimal
	Size    int64
}

// Want is what should be on a host.
type Want struct {
	Files []File
	Units []string // sorted as roles are: nats, replay or replay-1, ..., learner, actor-1, ...
}

// Sources are the files of this machine that hosts are given, read once and checked before any host is
// touched.
type Sources struct {
	inventory *Inventory
	learner   []byte          // configuration
	files     map[string]File // by path here
	binaries  map[string]File // by architecture
}

// maxFile bounds everything pushed but the binary.
const maxFile = 1 << 20

// ReadSources reads what the inventory names; running is the path of the running binary.
func ReadSources(v *Inventory, running string) (*Sources, error) {
	s := &Sources{inventory: v, files: map[string]File{}, binaries: map[string]File{}}
	if v.find(RoleLearner) != nil {
		cfg, err := v.Configuration()
		if err != nil {
			return nil, err
		}
		if err := v.checkReplays(cfg); err != nil {
			return nil, err
		}
		if s.learner, err = cfg.Encode(); err != nil {
			return nil, err
		}
	}
	for _, h := range v.Hosts {
		for _, path := range v.needs(h) {
			if _, ok := s.files[path]; ok {
				continue
			}
			content, err := readBounded(path, maxFile)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrInventory, err)
			}
			s.files[path] = File{Local: path, Digest: digest(content), Size: int64(len(content))}
		}
	}
	paths := maps.Clone(v.Binary)
	if paths[runtime.GOARCH] == "" {
		paths = merged(paths, map[string]string{runtime.GOARCH: running})
	}
	for arch, path := range paths {
		f, err := readBinary(v.Path(path), arch)
		if err != nil {
			return nil, fmt.Errorf("%w: binary for %s: %w", ErrInventory, arch, err)
		}
		s.binaries[arch] = f
	}
	return s, nil
}

// needs lists the local files of a host.
func (v *Inventory) needs(h Host) []string {
	var paths []string
	for _, role := range v.keyed(h) {
		paths = append(paths, v.keyOf(h, role))
	}
	for _, file := range v.serverFiles(h) {
		paths = append(paths, v.serverPath(h, file))
	}
	return paths
}

// serverFiles are what a server of a cluster has of its own.
func (v *Inventory) serverFiles(h Host) []string {
	if v.Cluster == "" || !slices.Contains(h.Roles, RoleNATS) {
		return nil
	}
	return []string{serverConf, "server.pem", "server.key", "ca.pem"}
}

// serverPath is where nats init has written a server's file: in a folder named after its address, and
// the port where that is not the usual one.
func (v *Inventory) serverPath(h Host, file string) string {
	host, port, _ := net.SplitHostPort(h.Bus) // it has been checked
	name := strings.ReplaceAll(host, ":", "-")
	if port != "4222" {
		name += "-" + port
	}
	return filepath.Join(v.Path(v.Cluster), name, file)
}

// keyed lists the roles of a host that authenticate.
func (v *Inventory) keyed(h Host) []string {
	if v.Cluster == "" {
		return nil
	}
	return slices.DeleteFunc(rolesOf(h.units()), func(role string) bool { return role == RoleNATS })
}

// keyOf is the file on this machine of the key of a host's role.
func (v *Inventory) keyOf(h Host, role string) string {
	if role == RoleActor {
		return v.Key(cmp.Or(h.Key, RoleActor))
	}
	return v.Key(role)
}

func readBinary(path, arch string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if e, err := elf.NewFile(f); err != nil || e.Machine != machine {
		return File{}, fmt.Errorf("%s is no program for Linux on %s: 'make cross-build' makes one for each", path, arch)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return File{}, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	return File{Path: "bin/dreamfleet-" + sum[:16], Mode: 0o755, Local: path, Digest: sum, Size: n}, nil
}

// Want says what a host of an architecture should have.
func (s *Sources) Want(h Host, arch string) (Want, error) {
	v := s.inventory
	binary, ok := s.binaries[arch]
	if !ok {
		return Want{}, fmt.Errorf("it is %s, for which there is no binary: give binary: {%s: PATH}; 'make cross-build' makes them", arch, arch)
	}
	w := Want{Files: []File{content("host.sh", 0o700, hostScript), binary}, Units: h.units()}
	add := func(path, local string, mode fs.FileMode) {
		f := s.files[local]
		f.Path, f.Mode = path, mode
		w.Files = append(w.Files, f)
	}
	for _, role := range v.keyed(h) {
		add(keyPath(role), v.keyOf(h, role), 0o600)
	}
	for _, file := range v.serverFiles(h) {
		add("etc/"+file, v.serverPath(h, file), 0o600)
	}
	if slices.Contains(h.Roles, RoleLearner) {
		w.Files = append(w.Files, content(configPath, 0o644, s.learner))
	}
	inputs := w.Files[1:] // not host.sh, which is no part of what runs
	for _, role := range rolesOf(w.Units) {
		w.Files = append(w.Files, content("units/"+role, 0o600, v.unit(h, role, binary.Path, inputs)))
	}
	return w, nil
}

// Places within the run's folder.
const (
	serverConf = "nats-server.conf"
	configPath = "etc/learner.yaml"
)

func keyPath(role string) string { return "keys/" + role + ".nk" }

// unit is the file that starts a role: read by host.sh, which has set number for an actor and a shard.
func (v *Inventory) unit(h Host, role, binary string, inputs []File) []byte {
	var args []string
	key := keyPath(role)
	uses := func(path string) bool { return path == key }
	switch role {
	case RoleNATS:
		args = []string{"--store", "nats", "--listen", h.Bus}
		if v.Cluster != "" {
			args = []string{"--store", "nats", "--config", "etc/" + serverConf}
		}
		uses = func(path string) bool { return strings.HasPrefix(path, "etc/") && path != configPath }
	case RoleReplay:
		args = []string{"--run", "runs/" + v.Run, "--name", h.Name}
	case RoleLearner:
		args = []string{"--run", "runs/" + v.Run, "--config", configPath, "--standby"}
		uses = func(path string) bool { return path == key || path == configPath }
	case RoleActor:
		args = []string{"--run", v.Run}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s of run %s on %s, under %s, written by dreamfleet launch. It depends on\n", role, v.Run, h.Name, h.Service)
	for _, f := range inputs {
		if f.Path == binary || uses(f.Path) {
			fmt.Fprintf(&b, "# %s %s\n", f.Digest, f.Path)
		}
	}
	fmt.Fprintf(&b, "binary=%s\n", binary)
	if role != RoleNATS {
		fmt.Fprintf(&b, "export DREAMFLEET_NATS_URL=%s\n", quote(v.URL()))
		if v.Cluster != "" {
			fmt.Fprintf(&b, "export DREAMFLEET_NATS_CREDS=%s\n", key)
		}
	}
	fmt.Fprintf(&b, "export DREAMFLEET_MONITOR=%s\n", monitorAddress(h, role))
	for _, name := range slices.Sorted(maps.Keys(h.Env)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, quote(h.Env[name]))
	}
	fmt.Fprintf(&b, `exec "$binary" %s %s`, role, words2line(args))
	switch {
	case role == RoleActor:
		fmt.Fprintf(&b, ` --name %s-"$number"`, h.Name)
	case role == RoleReplay && len(h.Shards) > 0:
		fmt.Fprintf(&b, ` --shard "$number"/%d`, v.replays())
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// monitorAddress is where a role serves metrics and health, for a shell that has number.
func monitorAddress(h Host, role string) string {
	host, _, _ := net.SplitHostPort(h.Monitor) // it has been checked
	if role == RoleActor || role == RoleReplay && len(h.Shards) > 0 {
		return quote(net.JoinHostPort(host, "")) + fmt.Sprintf("$((%d + number))", monitorPort(h.Monitor, role, 1)-1)
	}
	return quote(net.JoinHostPort(host, strconv.Itoa(monitorPort(h.Monitor, role, 0))))
}

// roleOf is the role of a unit: actor of actor-3, replay of replay-2.
func roleOf(unit string) string {
	role, _, _ := strings.Cut(unit, "-")
	return role
}

func rolesOf(units []string) []string {
	var roles []string
	for _, u := range units {
		if role := roleOf(u); !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	return roles
}

func content(path string, mode fs.FileMode, text []byte) File {
	return File{Path: path, Mode: mode, Content: text, Digest: digest(text), Size: int64(len(text))}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
