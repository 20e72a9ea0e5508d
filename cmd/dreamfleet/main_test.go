package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// asCommand in the environment makes the test binary the command itself, for tests that need
// processes of their own.
const asCommand = "TEST_RUNS_THE_COMMAND"

func TestMain(m *testing.M) {
	launched := strings.HasPrefix(filepath.Base(os.Args[0]), "dreamfleet-") // as the program, see TestLaunch
	if launched || os.Getenv(asCommand) != "" {
		main()
	}
	// nats.go 1.55.0 leaves this goroutine behind when an object is stored so fast that the store's
	// Put has cleaned up before the goroutine that it began has read its channel: a nil one then.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// execute runs a command line in a folder of its own.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("DREAMFLEET_NATS_URL", "")
	for _, test := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"version", exitOK, ""},
		{"", exitOK, ""},
		{"--help", exitOK, ""},
		{"nats --help", exitOK, ""},
		{"completion bash", exitOK, ""},
		{"config", exitOK, ""},
		{"config --set learner.batch_siz=1", exitUsage, "unknown key learner.batch_siz; did you mean learner.batch_size?"},
		{"config --set model.blocks=7", exitUsage, "model.blocks is 7: it must be a divisor of model.deter (128)"},
		{"config --config missing.yaml", exitUsage, "missing.yaml"},
		{"config --preset huge", exitUsage, "unknown preset \"huge\"; want one of debug, small"},
		{"config --reference --presets", exitUsage, "reference presets"},
		{"trian", exitUsage, `unknown command "trian"`},
		{"env verfy", exitUsage, `unknown command "verfy" for "dreamfleet env"; did you mean verify?`},
		{"env other", exitUsage, "it has score, tune, verify"},
		{"env", exitOK, ""},
		{"learner dmp", exitUsage, "did you mean dump?"},
		{"config reference", exitUsage, "did you mean --reference?"},
		{"env score --interval -3", exitUsage, "interval is -3"},
		{"version --what", exitUsage, "unknown flag: --what"},
		{"version what", exitUsage, "unknown command \"what\""},
		{"nats", exitUsage, "at least one of the flags in the group [store config] is required"},
		{"nats --store s --listen nowhere", exitFailure, "nowhere"},
	} {
		code, _, stderr := execute(t, strings.Fields(test.args)...)
		if code != test.code || !strings.Contains(stderr, test.stderr) || code == exitUsage && !strings.Contains(stderr, "--help") {
			t.Errorf("dreamfleet %s: exit code %d, want %d, with\n%s", test.args, code, test.code, stderr)
		}
	}
}

// What config prints is a configuration file, which names no run.
func TestConfigPrintsAFile(t *testing.T) {
	t.Chdir(t.TempDir())
	code, first, stderr := execute(t, "config", "--preset", "debug", "--set", "model.deter=64", "--run", "runs/a")
	if code != exitOK {
		t.Fatal(stderr)
	}
	if err := os.WriteFile("debug.yaml", []byte(first), 0o644); err != nil {
		t.Fatal(err)
	}
	code, second, stderr := execute(t, "config", "--config", "debug.yaml", "--run", "runs/b")
	if code != exitOK || second != first {
		t.Errorf("exit code %d, %s; printed\n%s\nthen\n%s", code, stderr, first, second)
	}
	if !strings.Contains(first, "run: \"\"\n") || !strings.Contains(first, "deter: 64\n") {
		t.Errorf("printed\n%s", first)
	}
}

// Every command teaches: a purpose and an example.
func TestHelpTeaches(t *testing.T) {
	root := newRootCommand()
	for _, cmd := range root.Commands() {
		if cmd.Short == "" || !strings.Contains(cmd.Example, "dreamfleet "+cmd.Name()) {
			t.Errorf("%s has no purpose or no example", cmd.CommandPath())
		}
	}
}

func TestStopOnSignal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	signals := make(chan os.Signal, 2)
	signals <- os.Interrupt
	codes := make(chan int)
	done := make(chan struct{})
	go func() {
		defer close(done)
		stopOnSignal(signals, cancel, new(bytes.Buffer), func(code int) { codes <- code })
	}()
	<-ctx.Done() // the first asks the command to stop
	select {
	case code := <-codes:
		t.Fatalf("the first signal exits with %d", code)
	default:
	}
	signals <- os.Interrupt
	if code := <-codes; code != exitInterrupted {
		t.Errorf("the second signal exits with %d", code)
	}
	<-done
}

func TestVersionSaysHowItWasBuilt(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	if got := describeBuild("", info); !strings.HasPrefix(got, "dreamfleet v1.2.3\ncommit abc with changes, 2026-01-02T03:04:05Z\ngo") {
		t.Errorf("got %q", got)
	}
	if got := describeBuild("v2", &debug.BuildInfo{}); !strings.HasPrefix(got, "dreamfleet v2\ncommit unknown\n") {
		t.Errorf("got %q", got)
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	have, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != referenceMarkdown() {
		t.Error("docs/configuration.md is not what the code says: run go generate ./cmd/dreamfleet")
	}
}

// A command that was stopped before it had what it was asked for says so.
func TestInterruptedScore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, stderr bytes.Buffer
	if code := run(ctx, []string{"env", "score", "--seeds", "1-100000"}, &out, &stderr); code != exitFailure || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
