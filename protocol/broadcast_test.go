package protocol_test

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// params are a blob of two and a half frames that begins with its version.
func params(version uint64) []byte {
	blob := bytes.Repeat([]byte{byte(version)}, 5*protocol.FrameBytes/2)
	copy(blob, strconv.FormatUint(version, 10)+" ")
	return blob
}

// subscriber follows parameters and checks every blob.
type subscriber struct {
	bus    *protocol.Bus
	newest atomic.Uint64
	count  atomic.Uint64
}

func follow(t *testing.T, b *protocol.Bus) *subscriber {
	s := &subscriber{bus: b}
	background(t, func(ctx context.Context) error {
		return b.FollowParams(ctx, func(version uint64, blob []byte) {
			if !bytes.Equal(blob, params(version)) {
				t.Errorf("parameters %d are torn", version)
			}
			s.newest.Store(version)
			s.count.Add(1)
		})
	})
	return s
}

func (s *subscriber) at(version uint64) func() bool {
	return func() bool { return s.newest.Load() == version }
}

func broadcaster(t *testing.T, b *protocol.Bus) *protocol.Broadcaster {
	t.Helper()
	c, err := take(t, b).NewBroadcaster()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// take takes the run's lease.
func take(t *testing.T, b *protocol.Bus) *protocol.Lease {
	t.Helper()
	l, err := b.TakeLease(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func send(t *testing.T, c *protocol.Broadcaster, version uint64) {
	t.Helper()
	if err := c.Publish(t.Context(), version, params(version)); err != nil {
		t.Fatal(err)
	}
}

func TestParamsReachAll(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Keys: t.TempDir()})
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner})
	actor := func(name string) *protocol.Bus {
		return connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleActor, Name: name})
	}
	early := []*subscriber{follow(t, actor("a0")), follow(t, actor("a1"))} // before there is a learner
	c := broadcaster(t, learner)
	for version := range uint64(3) {
		send(t, c, version+1)
		for _, a := range early {
			eventually(t, "the new version arrives", a.at(version+1))
		}
	}
	late := follow(t, actor("a2"))
	eventually(t, "a late joiner gets the newest", late.at(3))
	if got := late.bus.Stats(); got.ParamsFetched != 3 || got.ParamsReceived != 1 {
		t.Errorf("late joiner: %+v", got)
	}
	if err := c.Publish(t.Context(), 3, params(3)); err == nil {
		t.Error("a version was broadcast twice")
	}

	// A learner that restarts from a checkpoint before the last broadcast.
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = broadcaster(t, learner)
	send(t, c, 2)
	for _, a := range append(early, late) {
		eventually(t, "the restarted learner is followed", a.at(2))
		if got := a.bus.Stats(); len(got.Refused) != 0 || got.Denied != 0 {
			t.Errorf("%+v", got)
		}
	}
}

// frame is a frame as it goes over the wire, written down here a second time.
func frame(epoch, version uint64, index int, blob []byte) *nats.Msg {
	count := (len(blob) + protocol.FrameBytes - 1) / protocol.FrameBytes
	digest := crc32.Checksum(blob, crc32.MakeTable(crc32.Castagnoli))
	return &nats.Msg{
		Subject: "params.park.chunk",
		Data:    blob[index*protocol.FrameBytes : min((index+1)*protocol.FrameBytes, len(blob))],
		Header: nats.Header{
			"Df-Format": {"2"}, "Df-Epoch": {strconv.FormatUint(epoch, 10)}, "Df-Version": {strconv.FormatUint(version, 10)},
			"Df-Index": {strconv.Itoa(index)}, "Df-Count": {strconv.Itoa(count)}, "Df-Size": {strconv.Itoa(len(blob))},
			"Df-CRC32C": {fmt.Sprintf("%08x", digest)},
		},
	}
}

// A wire with losses, repetitions, interleaved versions and torn ones: what is
// lost is fetched, what is torn is refused.
func TestParamsOverABadWire(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := connect(t, protocol.BusConfig{Server: s})
	nc, _ := raw(t, s.URL())
	sendFrames := func(frames ...*nats.Msg) {
		t.Helper()
		for _, f := range frames {
			if err := nc.PublishMsg(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	// The learner by hand: it serves version 4 of epoch 9.
	served := params(4)
	if _, err := nc.Subscribe("params.park.get", func(m *nats.Msg) {
		reply := &nats.Msg{Header: nats.Header{"Df-Gone": {"1"}}}
		index, err := strconv.Atoi(m.Header.Get("Df-Index"))
		switch {
		case err == nil && m.Header.Get("Df-Version") == "4":
			reply = frame(9, 4, index, served)
		case err == nil || m.Header.Get("Df-Version") == "4":
		default:
			reply = frame(9, 4, 0, served)
		}
		reply.Subject = ""
		if err := m.RespondMsg(reply); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	a := follow(t, b)
	eventually(t, "the newest is fetched", a.at(4))

	// Version 5 comes between 6's frames, which are repeated and out of order.
	five, six := params(5), params(6)
	sendFrames(frame(9, 6, 2, six), frame(9, 5, 0, five), frame(9, 6, 2, six), frame(9, 5, 1, five), frame(9, 6, 0, six), frame(9, 5, 2, five), frame(9, 6, 1, six))
	eventually(t, "the newest of two interleaved versions arrives", a.at(6))
	if got := b.Stats(); got.ParamsStale != 3 || len(got.Refused) != 0 {
		t.Errorf("%+v", got)
	}

	// Version 7 is torn: its second frame is another blob's under its headers.
	seven := params(7)
	torn := frame(9, 7, 1, seven)
	torn.Data = frame(9, 7, 1, params(8)).Data
	sendFrames(frame(9, 7, 0, seven), torn, frame(9, 7, 2, seven))
	eventually(t, "a torn version is refused", func() bool { return b.Stats().Refused["corrupt"] == 1 })

	// Version 8 loses a frame, and before it can be fetched its server is
	// gone on; version 9 is whole.
	sendFrames(frame(9, 8, 0, params(8)), frame(9, 8, 1, params(8)))
	nine := params(9)
	sendFrames(frame(9, 9, 0, nine), frame(9, 9, 1, nine), frame(9, 9, 2, nine))
	eventually(t, "the next whole version arrives", a.at(9))
	if got := a.count.Load(); got != 3 {
		t.Errorf("%d versions were delivered, 4, 6 and 9 are whole", got)
	}
}

// Frames lost on their way are fetched, and no others.
func TestLostFrameIsFetched(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	b := connect(t, protocol.BusConfig{Server: s})
	nc, _ := raw(t, s.URL())
	c := broadcaster(t, b)
	// Learn the epoch that the broadcaster took.
	frames, err := nc.SubscribeSync("params.park.chunk")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	send(t, c, 1)
	msg, err := frames.NextMsgWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := strconv.ParseUint(msg.Header.Get("Df-Epoch"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	a := follow(t, b)
	eventually(t, "the newest is fetched", a.at(1))
	before := b.Stats().ParamsFetched

	// Of version 2 only one frame arrives; another server has the others.
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	served := params(2)
	if _, err := nc.Subscribe("params.park.get", func(m *nats.Msg) {
		index, err := strconv.Atoi(m.Header.Get("Df-Index"))
		if err != nil {
			index = 0
		}
		reply := frame(epoch, 2, index, served)
		reply.Subject = ""
		if err := m.RespondMsg(reply); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishMsg(frame(epoch, 2, 1, served)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the two lost frames are fetched", a.at(2))
	if got := b.Stats().ParamsFetched - before; got != 2 {
		t.Errorf("%d frames were fetched for 2 lost", got)
	}
}

// Many that come late are not served one by one: the version goes out once more, to all.
func TestManyLateSubscribers(t *testing.T) {
	t.Parallel()
	s := startServer(t, protocol.ServerConfig{Listen: "127.0.0.1:0"})
	learner := connect(t, protocol.BusConfig{Server: s, Role: protocol.RoleLearner, Name: "learner"})
	c := broadcaster(t, learner)
	send(t, c, 1)
	const many = 64
	all := make([]*subscriber, many)
	for i := range all {
		// All ask at once, and again half a second later.
		b := connect(t, protocol.BusConfig{
			URL: s.URL(), Role: protocol.RoleActor, Name: fmt.Sprintf("a%d", i), Jitter: func(time.Duration) time.Duration { return 0 },
		})
		all[i] = &subscriber{bus: b}
	}
	for _, a := range all {
		background(t, func(ctx context.Context) error {
			return a.bus.FollowParams(ctx, func(version uint64, blob []byte) {
				if !bytes.Equal(blob, params(version)) {
					t.Errorf("parameters %d are torn", version)
				}
				a.newest.Store(version)
			})
		})
	}
	for _, a := range all {
		eventually(t, "all have it", a.at(1))
	}
	var fetched uint64
	for _, a := range all {
		fetched += a.bus.Stats().ParamsFetched
	}
	if resent := learner.Stats().ParamsResent; resent == 0 || fetched >= many*3 {
		t.Errorf("it went out %d times more, and %d of %d frames were served singly", resent, fetched, many*3)
	}
	send(t, c, 2)
	for _, a := range all {
		eventually(t, "all have the next", a.at(2))
	}
}
