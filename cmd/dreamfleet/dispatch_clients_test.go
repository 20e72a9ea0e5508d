package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var clientBlock = regexp.MustCompile("(?s)```(sh|python|go)\n(.*?)```")

// The clients of docs/dispatch.md are what they claim to be: each is run as it stands there, but for where the
// dispatcher is, and places a job and reports it complete. The Go client is run in this module, which has nats.go. curl
// and python3 may be missing on somebody's machine; in CI they must not be.
func TestClientsOfTheDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "dispatch.md"))
	if err != nil {
		t.Fatal(err)
	}
	clients := clientBlock.FindAllStringSubmatch(string(text), -1)
	if len(clients) != 3 {
		t.Fatalf("the document has %d clients", len(clients))
	}
	dir := filepath.Join(t.TempDir(), "small")
	trainTiny(t, dir, "--steps", "1500", "--set", "actor.chunk_length=16")
	keys, url, _ := busOf(t, dir)
	address, _, _ := dispatching(t, "--run", "small", "--nats", url, "--creds", filepath.Join(keys, "dispatcher.nk"), "--state", t.TempDir())
	here := strings.NewReplacer("http://127.0.0.1:7463", address, "nats://10.0.0.5:4222", url, `"client.nk"`, "`"+filepath.Join(keys, "client.nk")+"`")
	done := 0.0
	for _, c := range clients {
		program := map[string]string{"sh": "curl", "python": "python3", "go": "go"}[c[1]]
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Errorf("the client in %s was not run: %v", c[1], err)
			}
			t.Logf("the client in %s was NOT RUN: %v", c[1], err)
			continue
		}
		file := filepath.Join(t.TempDir(), "client."+c[1])
		if err := os.WriteFile(file, []byte(here.Replace(c[2])), 0o644); err != nil {
			t.Fatal(err)
		}
		command := map[string][]string{"sh": {"sh", "-e", file}, "python": {"python3", file}, "go": {"go", "run", file}}[c[1]]
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
		if want := map[string]string{"sh": `"job":"1"`}[c[1]]; err != nil || want == "" && !strings.Contains(string(out), "the job goes to server ") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", c[1], err, out)
		}
		done++
		if s := ask(t, address+"/v1/status", "{}"); s["decisions"] != done || s["completed"] != done || s["unfinished"] != 0.0 {
			t.Errorf("after the client in %s: %v decisions, %v completed, %v unfinished", c[1], s["decisions"], s["completed"], s["unfinished"])
		}
	}
}
