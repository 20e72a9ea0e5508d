package protocol_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// An actor that is told no run finds the only one, by its own key, also where it is there first; of
// several it chooses none. Looking leaves no trace.
func TestFindRun(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	looking := protocol.BusConfig{Server: s, Role: protocol.RoleActor, Name: "a0"}
	found := make(chan string, 1)
	background(t, func(ctx context.Context) error {
		run, err := protocol.FindRun(ctx, looking, hclog.NewNullLogger())
		if err != nil {
			t.Error(err)
		}
		found <- run
		<-ctx.Done()
		return ctx.Err()
	})
	first := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, Run: "first"})
	if err := first.PutConfig(t.Context(), []byte("seed: 0\n")); err != nil {
		t.Fatal(err)
	}
	if run := <-found; run != "first" {
		t.Errorf("found %q", run)
	}
	second := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, Run: "second"})
	if err := second.PutConfig(t.Context(), []byte("seed: 1\n")); err != nil {
		t.Fatal(err)
	}
	_, err := protocol.FindRun(t.Context(), looking, hclog.NewNullLogger())
	if !errors.Is(err, protocol.ErrManyRuns) || !strings.Contains(err.Error(), "first, second") {
		t.Errorf("of two: %v", err)
	}
}
