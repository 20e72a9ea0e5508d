package deploy

import (
	"bytes"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Have is what a host says is there.
type Have struct {
	Arch     string            // amd64 or arm64
	Folder   string            // absolute; empty: there is none yet
	Files    map[string]Placed // by path within it
	Units    map[string]State  // that have been started and not been stopped
	Versions map[string]string // of the binaries, by path
}

// Placed is a file as it is.
type Placed struct {
	Digest string
	Mode   fs.FileMode
}

// State is how a unit is.
type State struct {
	Running bool
	PID     int
	Uptime  time.Duration
	Code    int    // that it ended with; -1: it was killed together with what watches over it
	Unit    string // digest of the unit file that it was started with
	Binary  string
}

// observation asks a host what is there, changing nothing.
func observation(h Host, folder string) Command {
	return Command{
		Host: h, About: "what is there", Content: hostScript,
		Shell: fmt.Sprintf(`if cd %s 2>/dev/null; then sh -s tell; else echo "system $(uname -s) $(uname -m)"; fi`, quote(folder)),
	}
}

var (
	sha256Text = regexp.MustCompile(`^[0-9a-f]{64}$`)
	unitName   = regexp.MustCompile(`^(nats|replay(-[1-9][0-9]?)?|learner|actor-[1-9][0-9]{0,3})$`)
)

// parseHave reads what host.sh tells. Lines that are not its own, such as those of a login script, are
// passed over.
func parseHave(told []byte) (Have, error) {
	h := Have{Files: map[string]Placed{}, Units: map[string]State{}, Versions: map[string]string{}}
	for line := range bytes.Lines(told) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		switch {
		case f[0] == "system" && len(f) == 3:
			arch, ok := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[f[2]]
			if f[1] != "Linux" || !ok {
				return h, fmt.Errorf("it is %s on %s; there are binaries for Linux on x86_64 and aarch64", f[1], f[2])
			}
			h.Arch = arch
		case f[0] == "folder":
			h.Folder = strings.TrimSuffix(strings.TrimPrefix(string(line), "folder "), "\n")
		case f[0] == "file" && len(f) == 4 && sha256Text.MatchString(f[1]):
			mode, err := strconv.ParseUint(f[2], 8, 12)
			if err != nil {
				return h, fmt.Errorf("it says %q, which has no file mode", strings.TrimSpace(string(line)))
			}
			h.Files[f[3]] = Placed{Digest: f[1], Mode: fs.FileMode(mode)}
		case f[0] == "version" && len(f) == 3:
			h.Versions[f[1]] = f[2]
		case f[0] == "unit" && len(f) == 7 && unitName.MatchString(f[1]):
			number, err1 := strconv.Atoi(f[3])
			seconds, err2 := strconv.Atoi(f[4])
			if err1 != nil || err2 != nil {
				return h, fmt.Errorf("it says %q, which has no numbers", strings.TrimSpace(string(line)))
			}
			s := State{Unit: f[5], Binary: f[6], Uptime: time.Duration(seconds) * time.Second}
			switch f[2] {
			case "running":
				s.Running, s.PID = true, number
			case "ended":
				s.Code = number
			default:
				s.Code = -1
			}
			h.Units[f[1]] = s
		}
	}
	if h.Arch == "" {
		return h, fmt.Errorf("it does not say what it is: it needs a POSIX shell and the usual tools")
	}
	return h, nil
}
