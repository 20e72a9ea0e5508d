package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// systemd itself takes the units, those of this folder and those that host.sh writes. What it is given in
// place of the programs is one that it finds.
func TestUnitsAreVerified(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	dir := t.TempDir()
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) != 5 {
		t.Fatal(units, err)
	}
	args := []string{"verify", "--man=no"}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/dreamfleet"), []byte("/bin/true"))
		path := filepath.Join(dir, strings.ReplaceAll(filepath.Base(unit), "@", "@1"))
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	args = append(args, describedUnit(t, dir))
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// describedUnit is a unit as host.sh starts it, with systemctl written down instead of run.
func describedUnit(t *testing.T, dir string) string {
	t.Helper()
	run := filepath.Join(dir, "dreamfleet", "try")
	bin := filepath.Join(dir, "bin")
	for _, d := range []string{run, bin, filepath.Join(run, "log"), filepath.Join(dir, "config")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	calls := filepath.Join(dir, "calls")
	for path, text := range map[string]string{
		filepath.Join(run, "host.sh"): string(hostScript), filepath.Join(run, "log", "learner.log"): "no\n",
		// As a user's, whoever runs the test: root's units would go where the machine's are.
		filepath.Join(bin, "id"):        "#!/bin/sh\nif [ \"$1\" = -u ]; then echo 1000; else echo fleet; fi\n",
		filepath.Join(bin, "systemctl"): "#!/bin/sh\necho \"systemctl $*\" >>" + quote(calls) + "\n",
		filepath.Join(bin, "loginctl"):  "#!/bin/sh\nexit 0\n",
		filepath.Join(bin, "sleep"):     "#!/bin/sh\nexit 0\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "host.sh", "start", ServiceSystemd, "learner")
	cmd.Dir = run
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "learner does not run; its log ends with:\nno\n") {
		t.Errorf("%v: %s", err, out) // nothing has started it
	}
	const service = "dreamfleet-try-learner.service"
	told, err := os.ReadFile(calls)
	if err != nil || string(told) != "systemctl --user daemon-reload\nsystemctl --user enable --now "+service+"\n" {
		t.Errorf("%s%v", told, err)
	}
	return filepath.Join(dir, "config", "systemd", "user", service)
}

// What a VM is given is what systemd's folder has, and scripts that a shell reads.
func TestCloudInit(t *testing.T) {
	text, err := os.ReadFile("cloud-init/actor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("#cloud-config\n")) {
		t.Error("the first line is not what cloud-init looks for")
	}
	var data struct {
		Users      []any
		WriteFiles []struct {
			Path, Owner, Permissions, Content string
			Defer                             bool
		} `yaml:"write_files"`
		Runcmd [][]string
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&data); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range data.WriteFiles {
		files[f.Path] = f.Content
		if f.Owner != "" && !f.Defer {
			t.Errorf("%s is given to %s before there is such a user", f.Path, f.Owner)
		}
		if strings.HasPrefix(f.Content, "#!/bin/sh") {
			cmd := exec.Command("sh", "-n")
			cmd.Stdin = strings.NewReader(f.Content)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s", f.Path, out)
			}
		}
	}
	unit, err := os.ReadFile("systemd/dreamfleet-actor@.service")
	if err != nil {
		t.Fatal(err)
	}
	if files["/etc/systemd/system/dreamfleet-actor@.service"] != string(unit) {
		t.Error("its unit is not the one of deploy/systemd")
	}
	for _, command := range data.Runcmd {
		if _, ok := files[command[0]]; !ok {
			t.Errorf("it runs %s, which it does not write", command[0])
		}
	}
}
