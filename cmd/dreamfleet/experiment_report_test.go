package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExperimentReportWritesThreeFiles(t *testing.T) {
	dir := t.TempDir()
	scores := filepath.Join(dir, "published.json")
	if err := os.WriteFile(scores, []byte(`[{"task":"atari_pong","method":"ppo","seed":"0","xs":[0,100],"ys":[-21,5]}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	written, err := writeReport([]string{scores}, filepath.Join(dir, "new", "page.html"))
	if err != nil || len(written) != 3 {
		t.Fatalf("wrote %v, error %v", written, err)
	}
	page, err := os.ReadFile(written[0])
	if err != nil || !strings.Contains(string(page), `href="../published.json"`) || !strings.Contains(string(page), "atari_pong") {
		t.Errorf("page of %d bytes, error %v", len(page), err)
	}
	text, err := os.ReadFile(written[1])
	if err != nil || !json.Valid(text) {
		t.Errorf("JSON %s, error %v", text, err)
	}
}

func TestExperimentReportRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.json", `[]`)
	for name, c := range map[string]struct{ path, out, want string }{
		"missing":      {filepath.Join(dir, "none"), "r.html", "none"},
		"no folder":    {dir, "r.html", "experiment.json"},
		"another kind": {write("x.txt", ""), "r.html", "neither"},
		"damaged":      {write("bad.json", `[{`), "r.html", "bad.json"},
		"itself":       {good, "good.html", "overwrite"},
	} {
		if _, err := writeReport([]string{c.path}, filepath.Join(dir, c.out)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	if text, _ := os.ReadFile(good); string(text) != "[]" {
		t.Errorf("the input was overwritten with %s", text)
	}
}
