//go:build browser

package dashboard

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browser starts a headless Chromium that fails the test by what the page complains
// of, and by any request beyond the dashboard.
func browser(t *testing.T, url string) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("no chromium: make test-dashboard says how to come by one")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(profile(t)),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var complaints []string
	chromedp.ListenTarget(ctx, func(e any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			complaints = append(complaints, fmt.Sprintf("console: %s %s", e.Type, e.Args[0].Value))
		case *network.EventRequestWillBeSent:
			if u := e.Request.URL; !strings.HasPrefix(u, url+"/") && !strings.HasPrefix(u, "data:") {
				complaints = append(complaints, "request to "+u)
			}
		}
	})
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range complaints {
			t.Error(c)
		}
	})
	run(t, ctx, network.Enable(), runtime.Enable(), chromedp.Navigate(url+"/"))
	return ctx
}

func run(t *testing.T, ctx context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// shows waits until an expression is true in the page.
func shows(t *testing.T, ctx context.Context, what, expression string) {
	t.Helper()
	if err := chromedp.Run(ctx, chromedp.Poll(expression, nil, chromedp.WithPollingTimeout(time.Minute))); err != nil {
		var text string
		_ = chromedp.Run(ctx, chromedp.Evaluate(`document.body.innerText`, &text))
		t.Fatalf("%s: %v: the page has\n%s", what, err, text)
	}
}

func has(id, text string) string {
	return fmt.Sprintf(`document.getElementById(%q).textContent.includes(%q)`, id, text)
}

// Everything that the page is for is there, and goes on as the runs do.
func TestPage(t *testing.T) {
	b, url := serve(t, "")
	ctx := browser(t, url)
	for _, s := range [][2]string{
		{"tiles", "1,234,567"}, {"tiles", "0.943 × LEFT"}, {"tiles", "replayed 41.5 versions old"},
		{"health", "attention"}, {"problems", "actor a3 was last heard 8 s ago"},
		{"processes", "node-learner"}, {"processes", "v1.4.0"}, {"processes", "2.5k decisions/s"}, {"processes", "canary, 1,000,000 decisions, 120 fallbacks, 2 of 64 streams held"}, {"processes", "(late)"},
		{"limiter", "Actors are held"}, {"limiter", "1232 more steps to be sampled"},
		{"staleness", "mean is 41.5"}, {"composition", "slow servers"},
		{"evaluation", "dreamer greedy"}, {"evaluation", "index 0.869"}, {"evaluation", "left 1"},
		{"losses", "reconstruction"}, {"forgetting", "bursts"}, {"forgetting", "a2c"}, {"forgetting", "1.200"},
	} {
		shows(t, ctx, s[0]+" has "+s[1], has(s[0], s[1]))
	}
	shows(t, ctx, "the band of intervals", `document.querySelector('#evaluation polygon.band') !== null`)
	shows(t, ctx, "the rules as lines", `document.querySelectorAll('#evaluation line[stroke-dasharray]').length >= 4`)
	shows(t, ctx, "names stay text", `document.title === 'small · dreamfleet' && document.images.length === 0`)

	// A process that stops is marked, and the bus's silence is said.
	b.mu.Lock()
	b.quiet = true
	b.mu.Unlock()
	shows(t, ctx, "a process that has gone", has("problems", "actor a3 has been gone"))
	b.mu.Lock()
	b.down = true
	b.mu.Unlock()
	shows(t, ctx, "a bus that is away", has("link", "the bus does not answer"))
	b.mu.Lock()
	b.down = false
	b.mu.Unlock()
	shows(t, ctx, "a bus that is back", `document.getElementById('link').textContent === ''`)

	// The other run.
	run(t, ctx, chromedp.SetValue("#run", "other"), chromedp.Evaluate(`document.getElementById('run').dispatchEvent(new Event('change'))`, nil))
	shows(t, ctx, "the other run", has("problems", "no learner is running")+" && "+has("limiter", "No replay is heard"))
}

// Episodes are played and stepped through, by keys, too; live ones go on by themselves.
func TestEnvironmentView(t *testing.T) {
	b, url := serve(t, "")
	ctx := browser(t, url)
	shows(t, ctx, "the episode is offered", has("source", "recorded: seed-3000"))
	choose := func(source string) {
		run(t, ctx, chromedp.Evaluate(fmt.Sprintf(`(() => { const s = document.getElementById('source'); s.value = %q; s.dispatchEvent(new Event('change')); })()`, source), nil))
	}
	choose("episode seed-3000")
	shows(t, ctx, "it plays", has("about", "Recorded")+" && +document.getElementById('seek').value > 3")
	run(t, ctx, chromedp.Focus("#play"), chromedp.KeyEvent(" "))
	shows(t, ctx, "it pauses by the key", has("play", "Play"))
	run(t, ctx, chromedp.Evaluate(`(() => { const s = document.getElementById('seek'); s.value = 40; s.dispatchEvent(new Event('input')); })()`, nil))
	shows(t, ctx, "a step is chosen", has("about", "step 41 of 300"))
	run(t, ctx, chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowLeft))
	shows(t, ctx, "arrows step", has("about", "step 42 of 300"))
	shows(t, ctx, "the queues", `document.querySelectorAll('#servers circle').length > 5 && `+has("servers", "LEFT"))
	shows(t, ctx, "predictions of all", has("forecast", "single predictions"))
	run(t, ctx, chromedp.Evaluate(`(() => { const s = document.getElementById('which'); s.value = '9'; s.dispatchEvent(new Event('change')); })()`, nil))
	shows(t, ctx, "predictions of a server", has("forecast", "80 % of samples")+` && document.querySelector('#forecast polygon.band') !== null`)

	if b.asks.Load() != 0 {
		t.Error("an actor is asked though nobody looks at it")
	}
	choose("live small a0-0-x7k2m9qp")
	shows(t, ctx, "the actor", has("about", "Live, a0-0-x7k2m9qp"))
	if b.asks.Load() == 0 {
		t.Error("the actor is not asked")
	}
}

// A token is asked for, taken from the address and kept out of it.
func TestTokenInBrowser(t *testing.T) {
	const token = "a-token-of-some-length"
	_, url := serve(t, token)
	ctx := browser(t, url)
	shows(t, ctx, "the door", `document.body.textContent.includes('needs its token')`)
	run(t, ctx, chromedp.Navigate(url+"/?token="+token))
	shows(t, ctx, "the page", has("tiles", "1,234,567")+` && location.search === ''`)
}

// Nothing runs over its screen, and each thing can be reached by the keyboard.
func TestScreens(t *testing.T) {
	_, url := serve(t, "")
	ctx := browser(t, url)
	shows(t, ctx, "the curves", has("evaluation", "dreamer greedy"))
	run(t, ctx, chromedp.Evaluate(`(() => { const s = document.getElementById('source'); s.value = 'episode seed-3000'; s.dispatchEvent(new Event('change')); })()`, nil))
	shows(t, ctx, "the episode", has("about", "Recorded"))
	run(t, ctx, chromedp.Evaluate(`(() => { const s = document.getElementById('seek'); s.value = 80; s.dispatchEvent(new Event('input')); const w = document.getElementById('which'); w.value = '9'; w.dispatchEvent(new Event('change')); })()`, nil))
	atEachSize(t, ctx, func(size, _ string) {
		var overflow int64
		run(t, ctx, chromedp.Evaluate(`document.documentElement.scrollWidth - document.documentElement.clientWidth`, &overflow))
		if overflow > 0 {
			t.Errorf("at %s the page is %d pixels too wide", size, overflow)
		}
	})
	var reached []string
	for range 40 {
		var id string
		run(t, ctx, chromedp.KeyEvent(kb.Tab), chromedp.Evaluate(`document.activeElement.id || document.activeElement.textContent.trim()`, &id))
		reached = append(reached, id)
	}
	for _, want := range []string{"run", "theme", "source", "play", "back", "forth", "seek", "speed", "which", "All other curves", "Fleet"} {
		if !strings.Contains("\n"+strings.Join(reached, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("the keyboard does not reach %s: %q", want, reached)
		}
	}
}

func atEachSize(t *testing.T, ctx context.Context, look func(size, theme string)) {
	t.Helper()
	for _, size := range [][2]int64{{390, 844}, {1024, 768}, {1600, 1000}} {
		for _, theme := range []string{"light", "dark"} {
			run(t, ctx,
				chromedp.EmulateViewport(size[0], size[1]),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}))
			look(fmt.Sprintf("%dx%d", size[0], size[1]), theme)
		}
	}
}

// Pictures of a run under way, for the documentation, are taken where DASHBOARD_URL is
// its page and DASHBOARD_SCREENSHOTS the folder; what the page says is tested on the way.
func TestRealRun(t *testing.T) {
	url, folder := strings.TrimSuffix(os.Getenv("DASHBOARD_URL"), "/"), os.Getenv("DASHBOARD_SCREENSHOTS")
	if (url == "") != (folder == "") {
		t.Fatal("DASHBOARD_URL and DASHBOARD_SCREENSHOTS are needed together")
	}
	if url == "" {
		return
	}
	ctx := browser(t, url)
	shows(t, ctx, "a learning curve", has("evaluation", "greedy"))
	shows(t, ctx, "a live actor", `document.querySelector('#source option[value^="live "]') !== null`)
	run(t, ctx, chromedp.Evaluate(`(() => { const s = document.getElementById('source'); s.value = s.querySelector('option[value^="live "]').value; s.dispatchEvent(new Event('change')); })()`, nil))
	shows(t, ctx, "its environment with predictions", has("about", "Live")+` && +document.getElementById('seek').value > 50`)
	run(t, ctx, chromedp.Evaluate(`document.getElementById('play').click()`, nil))
	run(t, ctx, chromedp.Evaluate(`(() => { const w = document.getElementById('which'); w.value = '9'; w.dispatchEvent(new Event('change')); })()`, nil))
	atEachSize(t, ctx, func(size, theme string) {
		for _, part := range []string{"main", "learning", "environment"} {
			var image []byte
			run(t, ctx, chromedp.Evaluate(fmt.Sprintf(`document.documentElement.style.scrollBehavior = 'auto'; document.getElementById(%q).scrollIntoView()`, part), nil),
				chromedp.CaptureScreenshot(&image))
			if err := os.WriteFile(filepath.Join(folder, part+"-"+size+"-"+theme+".png"), image, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// profile makes a folder for a browser. The browser's processes write there for a moment after they were told to
// end, so it takes more than one try to remove it.
func profile(t testing.TB) string {
	dir, err := os.MkdirTemp("", "dreamfleet-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		retry := time.NewTicker(10 * time.Millisecond)
		defer retry.Stop()
		deadline := time.Now().Add(10 * time.Second)
		for err := os.RemoveAll(dir); err != nil; err = os.RemoveAll(dir) {
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
			<-retry.C
		}
	})
	return dir
}
