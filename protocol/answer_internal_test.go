package protocol

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
)

// Whoever has made a stream waits until somebody answers for it, and what asks changes nothing.
func TestAnswered(t *testing.T) {
	t.Parallel()
	s, err := StartServer(ServerConfig{StoreDir: t.TempDir()}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	b, err := Connect(t.Context(), BusConfig{Server: s, Run: "park", Role: RoleLearner, Name: "learner"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)

	// A stream that one server has made and another does not know of yet looks like one that is
	// not there.
	stream := b.checkpointStream()
	probes := []*nats.Msg{canRead(stream.Name, "$O.CKPT.M.none"), canWrite("$O.CKPT.M.none")}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	err = b.answered(ctx, probes...)
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no server answers at $JS.API.DIRECT.GET.OBJ_CKPT.") {
		t.Errorf("without a stream: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- b.answered(t.Context(), probes...) }()
	made, err := b.js.CreateStream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("once there is one: %v", err)
	}
	if info, err := made.Info(t.Context()); err != nil || info.State.LastSeq != 0 {
		t.Errorf("asking has stored %+v, %v", info.State, err)
	}

	// Whoever waits may give up.
	if err := b.js.DeleteStream(t.Context(), stream.Name); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { waited <- b.answered(ctx, probes...) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
