package dashboard

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/view"
)

// get asks once, without following redirects.
func get(t *testing.T, url string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// The page asks nobody else, and says so to the browser.
func TestPageIsSelfContained(t *testing.T) {
	_, url := serve(t, "")
	resp, body := get(t, url+"/", nil)
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "<title>dreamfleet</title>") {
		t.Fatalf("%s: %.200s", resp.Status, body)
	}
	csp := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"} {
		if !strings.Contains(csp, want) {
			t.Errorf("policy %q lacks %s", csp, want)
		}
	}
	if strings.Contains(csp, "unsafe") {
		t.Errorf("policy is %q", csp)
	}
	outside := regexp.MustCompile(`(?:src|href|url\()=?["'(]?(?:https?:)?//`)
	if m := outside.FindString(body); m != "" {
		t.Errorf("the page has %q", m)
	}
	for _, way := range []string{"innerHTML", "insertAdjacentHTML", "document.write", "eval("} {
		if strings.Contains(body, way) {
			t.Errorf("the page uses %s", way)
		}
	}
}

func TestWhoMayLook(t *testing.T) {
	if _, err := Listen("0.0.0.0:0", ""); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("everybody may look: %v", err)
	}
	if _, err := Listen("8080", ""); err == nil || !strings.Contains(err.Error(), "host:port") {
		t.Errorf("an address without a host: %v", err)
	}
	_, open := serve(t, "")
	// A name of another site's that points here.
	if resp, _ := get(t, open+"/api/state", func(r *http.Request) { r.Host = "evil.example:80" }); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another site's page: %s", resp.Status)
	}
	for _, host := range []string{"localhost:1", "127.0.0.1", "[::1]:80"} {
		if resp, _ := get(t, open+"/api/state", func(r *http.Request) { r.Host = host }); resp.StatusCode != http.StatusOK {
			t.Errorf("host %s: %s", host, resp.Status)
		}
	}

	const token = "a-token-of-some-length"
	_, closed := serve(t, token)
	for name, change := range map[string]func(*http.Request){
		"nothing":      nil,
		"wrong bearer": func(r *http.Request) { r.Header.Set("Authorization", "Bearer a-token-of-some-lengtH") },
		"wrong cookie": func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookie, Value: "x"}) },
		"wrong query":  func(r *http.Request) { r.URL.RawQuery = "token=x" },
	} {
		for _, path := range []string{"/", "/api/state", "/api/events", "/api/view", "/api/episode"} {
			if resp, body := get(t, closed+path, change); resp.StatusCode != http.StatusUnauthorized || strings.Contains(body, token) {
				t.Errorf("%s with %s: %s", path, name, resp.Status)
			}
		}
	}
	if resp, _ := get(t, closed+"/api/state", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }); resp.StatusCode != http.StatusOK {
		t.Errorf("bearer: %s", resp.Status)
	}
	resp, _ := get(t, closed+"/?token="+token, nil)
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 || !resp.Cookies()[0].HttpOnly || resp.Header.Get("Location") != "/" {
		t.Fatalf("%s, cookies %v", resp.Status, resp.Cookies())
	}
	if resp, _ := get(t, closed+"/", func(r *http.Request) { r.AddCookie(resp.Cookies()[0]) }); resp.StatusCode != http.StatusOK {
		t.Errorf("cookie: %s", resp.Status)
	}
}

func TestReadToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	made, err := ReadToken(path)
	if err != nil || len(made) < minToken {
		t.Fatalf("%q, %v", made, err)
	}
	if again, err := ReadToken(path); err != nil || again != made {
		t.Errorf("%q then %q, %v", made, again, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadToken(path); err == nil || !strings.Contains(err.Error(), "at least 16") {
		t.Errorf("a short token: %v", err)
	}
	if token, err := ReadToken(""); token != "" || err != nil {
		t.Errorf("no file: %q, %v", token, err)
	}
}

func TestStateAndEpisode(t *testing.T) {
	_, url := serve(t, "")
	_, body := get(t, url+"/api/state", nil)
	var state fleet.State
	if err := json.Unmarshal([]byte(body), &state); err != nil || len(state.Runs) != 2 || state.Runs[1].Learner().Updates != 38_600 {
		t.Errorf("%v: %s", err, body)
	}
	resp, body := get(t, url+"/api/episode?name=seed-3000", nil)
	clip, err := view.Decode([]byte(body))
	if resp.StatusCode != http.StatusOK || err != nil || len(clip.Frames) != 300 {
		t.Errorf("%s, %v", resp.Status, err)
	}
	for _, name := range []string{"", "other", "../seed-3000", "experiment"} {
		if resp, _ := get(t, url+"/api/episode?name="+name, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("episode %q: %s", name, resp.Status)
		}
	}
	if resp, _ := get(t, url+"/api/view?run=small&actor=a.>", nil); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an actor that is no name: %s", resp.Status)
	}
	if resp, _ := get(t, url+"/nothing", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another path: %s", resp.Status)
	}
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/state", nil)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err = client.Do(r)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Fatalf("post: %v, %v", resp, err)
	}
	resp.Body.Close()
}

// follow reads the events of a path until one of each wanted kind has come.
func follow(t *testing.T, url string, wanted ...string) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := map[string]string{}
	name := ""
	for lines := bufio.NewReader(resp.Body); ; {
		missing := false
		for _, w := range wanted {
			missing = missing || got[w] == ""
		}
		if !missing {
			return got
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v; so far %d events", url, err, len(got))
		}
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = strings.TrimSpace(n)
		} else if data, ok := strings.CutPrefix(line, "data: "); ok && name != "" {
			got[name] = data
		}
	}
}

// Whoever looks has everything at once; the bus is asked for all together, and not
// at all when nobody looks.
func TestEvents(t *testing.T) {
	b, url := serve(t, "")
	if n := b.looks.Load(); n != 0 {
		t.Errorf("%d looks at the bus before anybody looks", n)
	}
	got := follow(t, url+"/api/events", "state", "curves", "matrix", "episodes", "trouble")
	for name, want := range map[string]string{
		"state": `"show":"small"`, "curves": `"run":"small"`, "matrix": `"stages":["1 park","2 light","3 bursts"]`, "episodes": `["seed-3000"]`, "trouble": `""`,
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s is %.300s, want %s", name, got[name], want)
		}
	}
}

func TestLiveView(t *testing.T) {
	b, url := serve(t, "")
	got := follow(t, url+"/api/view?run=small&actor=a0-0-x7k2m9qp", "clip")
	clip, err := view.Decode([]byte(got["clip"]))
	if err != nil || len(clip.Frames) != view.ClipFrames || clip.Frames[0].Obs != nil {
		t.Errorf("clip %v", err)
	}
	if b.asks.Load() == 0 {
		t.Error("the actor was not asked")
	}
}

func TestForgetting(t *testing.T) {
	dir := t.TempDir()
	writeExperiment(t, dir)
	matrices, err := Forgetting(dir)
	if err != nil || len(matrices) != 2 {
		t.Fatalf("%+v, %v", matrices, err)
	}
	m := matrices[1]
	if m.Method != "dreamer" || strings.Join(m.Tests, " ") != "park light bursts" || m.Ratios[0][0] != 0.9 || m.Ratios[2][0] != 1.2 || m.Ratios[0][2] != 2 {
		t.Errorf("%+v", m)
	}
	if err := os.WriteFile(filepath.Join(dir, "dreamer", "seed-1", "scores.jsonl"), []byte("{\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Forgetting(dir); err == nil || !strings.Contains(err.Error(), "scores.jsonl") {
		t.Errorf("damaged scores: %v", err)
	}
	if m, err := Forgetting(t.TempDir()); err != nil || len(m) != 0 {
		t.Errorf("an empty folder: %v, %v", m, err)
	}
}
