package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// replayStub serves batches whose first observation counts the calls.
type replayStub struct {
	calls atomic.Int32
	gate  chan struct{} // nil: open
	fail  error
	width int
	other atomic.Bool // the next batch has another shape
	taken chan *protocol.Refresh
}

var stubShape = protocol.BatchShape{Size: 2, Length: 5, ObsLen: 3, Actions: 9, ContextLen: 2}

func (r *replayStub) Sample(ctx context.Context, dst *protocol.Batch, size, length int) error {
	if r.gate != nil {
		select {
		case <-r.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if r.fail != nil {
		return r.fail
	}
	dst.Resize(size, length, 3, 9, r.width)
	if r.other.CompareAndSwap(true, false) {
		dst.Resize(size, length, 2, 9, r.width)
	}
	clear(dst.Obs)
	clear(dst.Action)
	clear(dst.Reward)
	clear(dst.Flags)
	clear(dst.Mask)
	clear(dst.Context)
	clear(dst.ParamVersion)
	dst.Mask[5] = true
	dst.Obs[0] = float32(r.calls.Add(1))
	dst.Refs = append(dst.Refs, protocol.Ref{Sequence: 1, Slot: 4})
	return nil
}

func (r *replayStub) Refresh(refresh *protocol.Refresh) (int, error) {
	if r.fail != nil {
		return 0, r.fail
	}
	r.taken <- refresh
	return len(refresh.Refs), nil
}

func TestSampleService(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner})
	remote, err := learner.RemoteReplay(stubShape)
	if err != nil {
		t.Fatal(err)
	}
	var batch protocol.Batch
	sampled := make(chan error, 1)
	go func() { sampled <- remote.Sample(t.Context(), &batch) }() // the replay is not up yet
	eventually(t, "the learner waits for the replay", func() bool { return learner.Stats().SampleWaits > 0 })

	replay := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleReplay})
	stub := &replayStub{width: 2, gate: make(chan struct{}), taken: make(chan *protocol.Refresh, 1)}
	background(t, func(ctx context.Context) error { return replay.ServeSamples(ctx, stub) })
	eventually(t, "the learner waits for the limiter", func() bool { return replay.Stats().SampleWaits > 0 })
	close(stub.gate)
	if err := <-sampled; err != nil {
		t.Fatal(err)
	}
	if batch.Size != 2 || batch.Length != 5 || batch.Obs[0] != 1 || !batch.Mask[5] || batch.Mask[4] || len(batch.Refs) != 1 || batch.Refs[0].Slot != 4 {
		t.Errorf("got %+v", batch)
	}

	// A batch of another shape is passed over.
	stub.other.Store(true)
	if err := remote.Sample(t.Context(), &batch); err != nil || batch.ObsLen != 3 || batch.Obs[0] != 3 {
		t.Errorf("got %+v, %v", batch, err)
	}
	if n := learner.Stats().Refused["other"]; n != 1 {
		t.Errorf("%d batches refused, want 1", n)
	}

	want := &protocol.Refresh{Refs: batch.Refs, Context: []float32{1, 2}}
	if err := remote.Refresh(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got := <-stub.taken; got.Refs[0] != want.Refs[0] || got.Context[1] != 2 {
		t.Errorf("refreshed %+v", got)
	}
	if s := learner.Stats(); s.Samples != 2 || s.Denied != 0 {
		t.Errorf("%+v", s)
	}
	if s := replay.Stats(); s.Samples != 3 || s.Denied != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSampleServiceErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	b := connect(t, protocol.BusConfig{Server: s})
	stub := &replayStub{width: 2_000_000}
	background(t, func(ctx context.Context) error { return b.ServeSamples(ctx, stub) })
	remote, err := b.RemoteReplay(stubShape)
	if err != nil {
		t.Fatal(err)
	}
	var batch protocol.Batch
	if err := remote.Sample(t.Context(), &batch); !errors.Is(err, protocol.ErrTooLarge) {
		t.Errorf("a batch of 16 MB: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := remote.Sample(ctx, &batch); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled request: %v", err)
	}
	if _, err := b.RemoteReplay(protocol.BatchShape{Length: 5}); err == nil {
		t.Error("batches of no sequences")
	}
}

func TestSampleServiceReportsFailure(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{})
	b := connect(t, protocol.BusConfig{Server: s})
	stub := &replayStub{fail: errors.New("disk on fire")}
	background(t, func(ctx context.Context) error { return b.ServeSamples(ctx, stub) })
	remote, err := b.RemoteReplay(stubShape)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Sample(t.Context(), new(protocol.Batch)); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("sample: %v", err)
	}
	if err := remote.Refresh(t.Context(), &protocol.Refresh{}); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("refresh: %v", err)
	}
}

// A batch that arrives damaged costs a warning and not the learner.
func TestDamagedBatchIsAskedForAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner})
	nc, _ := raw(t, s.URL())
	good := protocol.Batch{}
	if err := (&replayStub{width: 2}).Sample(t.Context(), &good, 2, 5); err != nil {
		t.Fatal(err)
	}
	message, err := good.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(message)
	damaged[len(damaged)-1] ^= 1
	var served atomic.Int32
	if _, err := nc.Subscribe("batch.park.get", func(m *nats.Msg) {
		reply := damaged
		if served.Add(1) > 1 {
			reply = message
		}
		if err := m.Respond(reply); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	remote, err := learner.RemoteReplay(stubShape)
	if err != nil {
		t.Fatal(err)
	}
	var batch protocol.Batch
	if err := remote.Sample(t.Context(), &batch); err != nil || batch.Size != 2 {
		t.Errorf("got %+v, %v", batch, err)
	}
	if st := learner.Stats(); st.Refused["corrupt"] != 1 || st.Samples != 1 {
		t.Errorf("%+v", st)
	}
}
