package actor

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func onPolicyActor(t *testing.T, bus Publisher) *Actor {
	t.Helper()
	cfg := Config{Run: "park", Name: "a", ChunkLength: 10, Stride: 10, Spool: 100, OnPolicy: true}
	a, err := New(cfg, trials(t, 2, false), paced{newScript(2)}, bus, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func versions(chunks []*protocol.Chunk) (all []uint64) {
	for _, c := range chunks {
		all = append(all, c.ParamVersion)
	}
	return all
}

// An on-policy actor waits for parameters, acts one chunk in each environment
// with each version, and does so again after a while in which none has come.
func TestOnPolicyActsOneRolloutWithEachVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &stored{}
		a := onPolicyActor(t, bus)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		defer cancel()
		go func() { done <- a.Run(ctx) }()
		expect := func(when string, want ...uint64) {
			t.Helper()
			synctest.Wait()
			if got := versions(bus.all()); !slices.Equal(got, want) {
				t.Fatalf("%s: chunks of versions %v, want %v", when, got, want)
			}
		}
		time.Sleep(time.Hour)
		expect("without parameters")
		a.SetParams(1, []byte{1})
		time.Sleep(time.Second)
		expect("with the first", 1, 1)
		a.SetParams(2, []byte{2})
		time.Sleep(50 * time.Millisecond) // half a rollout
		a.SetParams(3, []byte{3})
		time.Sleep(time.Second)
		expect("with another that came meanwhile", 1, 1, 2, 2, 3, 3)
		time.Sleep(rollAgain - time.Second - 300*time.Millisecond)
		expect("waiting", 1, 1, 2, 2, 3, 3)
		time.Sleep(700 * time.Millisecond)
		expect("again", 1, 1, 2, 2, 3, 3, 3, 3)
		time.Sleep(2*rollAgain - time.Second)
		expect("waiting for twice as long", 1, 1, 2, 2, 3, 3, 3, 3)
		time.Sleep(time.Second)
		expect("once more", 1, 1, 2, 2, 3, 3, 3, 3, 3, 3)
		for _, c := range bus.all() {
			if c.Steps != 10 || c.ContextRows() != 1 {
				t.Errorf("a rollout of %d steps with %d contexts", c.Steps, c.ContextRows())
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
