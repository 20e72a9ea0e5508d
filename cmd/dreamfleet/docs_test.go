package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commandLines finds what a reader would type: lines of code that begin with the command, perhaps under
// nohup, and commands inside a sentence, of which only the flags are checked.
func commandLines(text string) (whole, inline []string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		code, comment, _ := strings.Cut(strings.TrimRight(line, "\n"), " # ")
		if comment != "" && strings.TrimSpace(code) == "" || strings.HasPrefix(line, "# ") {
			code = strings.TrimLeft(line, "# ") // commented, as in a configuration file
		}
		code, _, _ = strings.Cut(code, " > ")
		code, _, _ = strings.Cut(code, " >>")
		if m := regexp.MustCompile(`^ *(?:nohup )?(?:bin/|/usr/local/bin/)?dreamfleet (.*)$`).FindStringSubmatch(code); m != nil && (line[0] == ' ' || line[0] == '#') {
			whole = append(whole, m[1])
			continue
		}
		for _, m := range regexp.MustCompile("`(?:bin/)?dreamfleet ([^`]*)`").FindAllStringSubmatch(line, -1) {
			inline = append(inline, m[1])
		}
	}
	return whole, inline
}

// parse gives a command line to the command that it names, as far as checking it.
func parse(line string, whole bool) error {
	line = strings.NewReplacer("[", "", "]", "", "--seed S", "--seed 0").Replace(line) // optional, and one for each seed
	args := strings.Fields(line)
	cmd, rest, err := newRootCommand().Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		if strings.Contains(line, "--help") {
			return nil
		}
		return err
	}
	if !whole {
		return nil
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	return cmd.ValidateFlagGroups()
}

// Whatever the documents and the help tell a reader to type is a command line that exists.
func TestDocumentedCommandLinesParse(t *testing.T) {
	texts := map[string]string{}
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/results/*/README.md", "deploy/*", "deploy/systemd/*", "deploy/kubernetes/*", "deploy/cloud-init/*"} {
		files, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			if info, err := os.Stat(file); err != nil || info.IsDir() || filepath.Ext(file) == ".go" {
				continue
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts[file] = string(content)
		}
	}
	var help func(cmd *cobra.Command)
	help = func(cmd *cobra.Command) {
		texts[cmd.CommandPath()+" --help"] = cmd.Example
		for _, c := range cmd.Commands() {
			help(c)
		}
	}
	help(newRootCommand())

	lines := 0
	for name, text := range texts {
		whole, inline := commandLines(text)
		for _, line := range whole {
			if err := parse(line, true); err != nil {
				t.Errorf("%s: dreamfleet %s: %v", name, line, err)
			}
		}
		for _, line := range inline {
			if words := strings.Fields(line); words[0] == strings.ToUpper(words[0]) {
				continue // dreamfleet COMMAND --help
			}
			if err := parse(line, false); err != nil {
				t.Errorf("%s: `dreamfleet %s`: %v", name, line, err)
			}
		}
		lines += len(whole) + len(inline)
	}
	if lines < 60 {
		t.Errorf("only %d command lines were found", lines)
	}
	for _, wrong := range []string{"replay --run runs/try --preset small", "trian", "env verify", "nats"} {
		if parse(wrong, true) == nil {
			t.Errorf("dreamfleet %s is accepted", wrong)
		}
	}
}

// The systemd units give every role the flags that it has.
func TestServiceCommandLinesParse(t *testing.T) {
	for role, flags := range map[string]string{
		"nats": "--listen 0.0.0.0:4222 --keys /var/lib/dreamfleet/keys", "replay": "--shard 1/3", "learner": "--preset small", "actor@": "",
	} {
		unit, err := os.ReadFile("../../deploy/systemd/dreamfleet-" + role + ".service")
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^ExecStart=\S*/dreamfleet (.*)$`).FindSubmatch(unit)
		if m == nil {
			t.Fatalf("%s: no ExecStart", role)
		}
		line := strings.NewReplacer("%l-%i", "host-1", "$FLAGS", flags, "${RUN}", "small").Replace(string(m[1]))
		if err := parse(line, true); err != nil {
			t.Errorf("dreamfleet %s: %v", line, err)
		}
	}
}

// Containers are given command lines that exist.
func TestContainerCommandLinesParse(t *testing.T) {
	lines := 0
	for file, key := range map[string]string{"compose.yaml": "command", "kubernetes/replay.yaml": "args", "kubernetes/learner.yaml": "args", "kubernetes/actor.yaml": "args"} {
		text, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^ +`+key+`: \[(.*)\]$`).FindAllStringSubmatch(string(text), -1) {
			line := strings.NewReplacer(",", "", `"`, "", "${RUN:-small}", "small", "${PRESET:-small}", "small", "$(SHARD)", "1").Replace(m[1])
			if err := parse(line, true); err != nil {
				t.Errorf("%s: dreamfleet %s: %v", file, line, err)
			}
			lines++
		}
	}
	if lines != 7 {
		t.Errorf("%d command lines", lines)
	}
}
