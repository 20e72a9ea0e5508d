package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/view"
)

// A run of train serves its page: its state, its curves, and a view of its actor with
// what the world model predicts.
func TestTrainServesItsDashboard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{
			"train", "--preset", "debug", "--run", dir, "--steps", "0", "--duration", "0",
			"--set", "evaluate.seeds=1-2", "--set", "evaluate.jobs=50", "--set", "learner.checkpoint_every=20",
		}, &out, &errs)
	}()
	ended := false
	defer func() {
		cancel()
		if !ended {
			<-done
		}
		if t.Failed() {
			t.Log(out.String(), errs.String())
		}
	}()
	url := ""
	await := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			select {
			case code := <-done:
				ended = true
				t.Fatalf("train ended with %d before %s", code, what)
			case <-ctx.Done():
				t.Fatalf("no %s", what)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	await("address", func() bool {
		content, err := os.ReadFile(filepath.Join(dir, urlFile))
		url = strings.TrimSpace(string(content))
		return err == nil && url != ""
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) *http.Response {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			return nil
		}
		return resp
	}
	actor := ""
	await("healthy run", func() bool {
		resp := get("api/state")
		if resp == nil {
			return false
		}
		defer resp.Body.Close()
		var state fleet.State
		if json.NewDecoder(resp.Body).Decode(&state) != nil || len(state.Runs) != 1 || state.Runs[0].Health != "ok" || state.Runs[0].Updates == 0 {
			return false
		}
		for _, p := range state.Runs[0].Processes {
			if p.Actor != nil {
				actor = p.Actor.Names[0]
			}
		}
		return actor != ""
	})
	event := func(path, name string, ok func(data string) bool) {
		t.Helper()
		resp := get(path)
		if resp == nil {
			t.Fatalf("no answer at %s", path)
		}
		defer resp.Body.Close()
		for lines, now := bufio.NewReader(resp.Body), ""; ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("no %s at %s: %v", name, path, err)
			}
			if n, is := strings.CutPrefix(line, "event: "); is {
				now = strings.TrimSpace(n)
			} else if data, is := strings.CutPrefix(line, "data: "); is && now == name && ok(data) {
				return
			}
		}
	}
	event("api/events", "curves", func(data string) bool {
		return strings.Contains(data, `"index":`) && strings.Contains(data, `"run":"r"`)
	})
	event("api/view?run=r&actor="+actor, "clip", func(data string) bool {
		clip, err := view.Decode([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		return clip.Actor == actor && len(clip.Forecasts) > 0
	})
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("train ends with %d", code)
	}
	ended = true
	if _, err := os.Stat(filepath.Join(dir, urlFile)); err == nil {
		t.Error("the address is left behind")
	}

	// An episode is recorded for the page to play.
	out.Reset()
	if code := run(t.Context(), []string{"evaluate", "--run", dir, "--seeds", "1-2", "--jobs", "100", "--view", "one"}, &out, &errs); code != exitOK {
		t.Fatalf("evaluate ends with %d: %s", code, errs.String())
	}
	clip, err := view.ReadFile(filepath.Join(dir, viewsDir, "one"+view.Extension))
	if err != nil || len(clip.Frames) != 100 || len(clip.Forecasts) != 2 || clip.Source != "recorded" || !(clip.Ratio > 0) {
		t.Errorf("view %+v, %v", clip, err)
	}
	if code, out, stderr := execute(t, "evaluate", "--run", dir, "--seeds", "1-2", "--jobs", "100", "--imagination"); code != exitOK || strings.Count(out, " real ") != 24 ||
		!strings.Contains(out, "size / 1000") || !strings.Contains(out, "8 steps ahead") || strings.Contains(out, " - ") {
		t.Errorf("the imagination: exit %d, %q, %q", code, out, stderr)
	}
	if code := run(t.Context(), []string{"evaluate", "--run", dir, "--view", "../one"}, &out, &errs); code != exitUsage {
		t.Errorf("a name that leaves the folder: %d", code)
	}
}

// A cluster's page has predictions without a run folder: the model comes from the run's checkpoint on the bus.
func TestDashboardOfAClusterPredicts(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	bus := startNATS(ctx, t, &wg, dir)
	for _, args := range [][]string{
		{"learner", "--preset", "debug", "--run", filepath.Join(dir, "r"), "--steps", "0", "--duration", "0", "--set", "evaluate.every=0", "--set", "learner.checkpoint_every=20"},
		{"replay", "--run", filepath.Join(dir, "replay", "r")}, {"actor"},
	} {
		wg.Go(func() {
			var errs bytes.Buffer
			if code := run(ctx, append(args, "--nats", bus), io.Discard, &errs); code != exitOK && ctx.Err() == nil {
				t.Errorf("%s ended with %d: %s", args[0], code, errs.String())
			}
		})
	}
	t.Setenv("TMPDIR", t.TempDir())
	out, in := io.Pipe()
	wg.Go(func() {
		if code := run(ctx, []string{"dashboard", "--nats", bus, "--listen", "127.0.0.1:0"}, in, io.Discard); code != exitOK {
			t.Errorf("dashboard ended with %d", code)
		}
		in.Close()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(strings.TrimPrefix(line, "Dashboard: "))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) io.ReadCloser {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return response.Body
	}
	actor := ""
	waitFor(t, func() bool {
		var state fleet.State
		body := get("api/state")
		defer body.Close()
		if json.NewDecoder(body).Decode(&state) != nil {
			return false
		}
		updates, number := int64(0), int64(0)
		for _, r := range state.Runs {
			updates = r.Updates
			for _, p := range r.Processes {
				if p.Actor != nil && len(p.Actor.Names) > 0 {
					actor = p.Actor.Names[0]
				}
			}
			number++
		}
		return actor != "" && number == 1 && updates > 40
	})
	body := get("api/view?run=r&actor=" + actor)
	defer body.Close()
	for lines, now := bufio.NewReader(body), ""; ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("no clip with a forecast: %v", err)
		}
		if n, is := strings.CutPrefix(line, "event: "); is {
			now = strings.TrimSpace(n)
		} else if data, is := strings.CutPrefix(line, "data: "); is && now == "clip" {
			clip, err := view.Decode([]byte(data))
			if err != nil {
				t.Fatal(err)
			}
			if len(clip.Forecasts) > 0 {
				break
			}
		}
	}
	cancel()
	wg.Wait()
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDashboardRefusals(t *testing.T) {
	for want, args := range map[string][]string{
		"everybody in the network": {"dashboard", "--nats", "nats://127.0.0.1:1", "--listen", "0.0.0.0:0"},
		"host:port":                {"dashboard", "--nats", "nats://127.0.0.1:1", "--listen", "8080"},
		"dashboard.listen":         {"train", "--preset", "debug", "--run", t.TempDir(), "--set", "dashboard.listen=8080"},
		"bus is":                   {"dashboard", "--listen", "127.0.0.1:0"},
	} {
		t.Setenv(urlVariable, "")
		var out, errs bytes.Buffer
		if code := run(t.Context(), args, &out, &errs); code == exitOK || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: %d, %q, want %q", args, code, errs.String(), want)
		}
	}
}
