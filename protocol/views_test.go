package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// With keys, a view goes from the actor that is asked to who asks, and curves from the
// learner to who watches; the bounds are kept.
func TestViewsAndCurves(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	watcher := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleOperator, Run: "watching", ReadOnly: true})
	if curves, revision, err := watcher.GetCurves(t.Context(), "small"); curves != nil || revision != 0 || err != nil {
		t.Errorf("curves on an empty bus: %q, %d, %v", curves, revision, err)
	}
	if beats, err := watcher.AllHeartbeats(t.Context()); len(beats) != 0 || err != nil {
		t.Errorf("heartbeats on an empty bus: %v, %v", beats, err)
	}
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, Run: "small"})
	actor := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor, Run: "small"})
	if curves, _, err := watcher.GetCurves(t.Context(), "small"); curves != nil || err != nil {
		t.Errorf("curves of a run without: %q, %v", curves, err)
	}
	for _, text := range []string{"one", "two"} {
		if err := learner.PutCurves(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	curves, revision, err := watcher.GetCurves(t.Context(), "small")
	if string(curves) != "two" || revision != 2 || err != nil {
		t.Errorf("curves %q, revision %d, %v", curves, revision, err)
	}
	if err := learner.PutCurves(t.Context(), make([]byte, protocol.MaxCurves+1)); !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("huge curves: %v", err)
	}

	background(t, func(ctx context.Context) error {
		return actor.FollowLooks(ctx, func(name string) {
			if err := actor.PublishView(name, []byte("view of "+name)); err != nil {
				t.Error(err)
			}
		})
	})
	got := make(chan []byte, 1)
	background(t, func(ctx context.Context) error {
		return watcher.FollowViews(ctx, "small", "a-1", func(view []byte) {
			select {
			case got <- bytes.Clone(view):
			default:
			}
		})
	})
	eventually(t, "a view", func() bool {
		if err := watcher.AskView("small", "a-1"); err != nil {
			t.Fatal(err)
		}
		select {
		case view := <-got:
			return string(view) == "view of a-1"
		default:
			return false
		}
	})
	if err := actor.PublishView("a-1", make([]byte, protocol.MaxView+1)); !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("a huge view: %v", err)
	}
	if watcher.AskView("small", "a.>") == nil || watcher.AskView("*", "a") == nil || watcher.FollowViews(t.Context(), "small", "*", nil) == nil {
		t.Error("a name with a wildcard is accepted")
	}
	for _, b := range []*protocol.Bus{watcher, learner, actor} {
		if n := b.Stats().Denied; n > 0 {
			t.Errorf("%d denials", n)
		}
	}
}
