package protocol

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BusConfig says where the bus is and who is connecting. Zero values of the
// second half stand for the defaults named there.
type BusConfig struct {
	Server      *Server // connect in process to this server; nil: connect to URL
	URL         string  // nats:// or tls:// addresses, separated by commas
	Credentials string  // file with an NKey seed or JWT credentials, and perhaps the authority's certificate; empty: the Server's own key, or none
	CA          string  // PEM file of the authority that signed the server's certificate; empty: the one in Credentials

	Run  string // name of the run, see ValidName
	Role Role
	Name string // of this process within its role, see ValidName

	ReadOnly bool // set nothing up and check nothing: for who only looks

	Host    string    // of this process, for its heartbeats; default the machine's name
	Version string    // of the program, for its heartbeats
	Started time.Time // when the process started, for its heartbeats; default: now

	Collect bool // a learner that takes the trajectories itself, in place of a replay

	TrajBytes       int64         // bound of stream TRAJ; default 1 GiB, some 10 000 chunks of 100 KB
	TrajAge         time.Duration // chunks older than this are dropped unread; default 1 h
	DeadBytes       int64         // bound of stream DEAD; default 64 MiB
	CheckpointBytes int64         // bound of object store CKPT, made with the first checkpoint; default 4 GiB

	AckWait      time.Duration // a chunk not acknowledged for so long is delivered again; default 30 s
	HeartbeatTTL time.Duration // a process silent for so long is gone; at least 1 s, default 10 s
	LeaseTTL     time.Duration // a leader that has not renewed its lease for so long leads no more; default 5 s
	ConfigCheck  time.Duration // AwaitConfig looks once or twice in two of these; default 5 s
	StallTimeout time.Duration // a checkpoint of which nothing has passed for so long is given up; default 10 s

	// Jitter returns a random delay in [0, max), so that a thousand processes
	// do not ask for the same thing at once; nil: uniform.
	Jitter func(max time.Duration) time.Duration
}

// ErrDisconnected is the cause of a request that failed for want of a
// connection. The client goes on trying to reconnect.
var ErrDisconnected = errors.New("not connected to the bus")

// Bus is one role's connection, with the methods of every role; permissions
// decide which of them the server lets through. It is safe for concurrent
// use. It survives losses of the connection for ever; nothing is buffered
// meanwhile, so whatever is not acknowledged must be sent again.
type Bus struct {
	cfg      BusConfig
	log      hclog.Logger
	nc       *nats.Conn
	js       jetstream.JetStream
	counters counters

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	inFlight chan struct{} // a token for every unacknowledged chunk

	starting sync.Mutex     // held while a goroutine is added to pending
	pending  sync.WaitGroup // goroutines that Close awaits; none are added once ctx has ended

	shards atomic.Int32 // replays of the run, see Divide; 0: one
	shard  atomic.Int32 // which of them this connection serves

	mu        sync.Mutex
	bounds    BusConfig // cfg with the bounds of BoundTrajectories
	refusedAt time.Time // when a refused message was last kept
	buffers   sync.Pool // *[]byte for chunks to be encoded into
	chunks    sync.Pool // *Chunk to be decoded into
}

const (
	// maxInFlight bounds unacknowledged chunks. 16 to 128 keep the stream busy
	// without its input queue answering 429, as it does at the library's 4000.
	maxInFlight = 32
	// publishTimeout is how long an acknowledgement may take.
	publishTimeout = 10 * time.Second
	stallTimeout   = 10 * time.Second
	// reconnectWait and its jitter space attempts at reconnecting.
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 250 * time.Millisecond
	// pingInterval is how often a client asks whether its server is there. Of a
	// server whose link is cut it otherwise hears nothing, and what it writes goes
	// into the system's buffers: with 10 s clients took 26 to 30 s to look for another
	// one. It costs a server of 1000 clients 500 messages of 6 bytes a second.
	pingInterval = 2 * time.Second
	// headerRoom is left for headers, which count for the server's max_payload.
	headerRoom = 4 << 10
)

// Connect connects and sets up the streams and buckets that are the role's to
// set up; it waits for the server until ctx ends. Existing ones are checked,
// and an error names the first setting that does not fit.
func Connect(ctx context.Context, cfg BusConfig, log hclog.Logger) (*Bus, error) {
	if err := cfg.fill(); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	b := &Bus{cfg: cfg, bounds: cfg, log: log, inFlight: make(chan struct{}, maxInFlight)}
	b.buffers.New = func() any { return new([]byte) }
	b.chunks.New = func() any { return new(Chunk) }
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if err := b.dial(ctx); err != nil {
		b.Close()
		return nil, fmt.Errorf("bus: %w", err)
	}
	if cfg.ReadOnly {
		return b, nil
	}
	if err := b.ensure(ctx, b.cfg); err != nil {
		b.Close()
		return nil, fmt.Errorf("bus: %w", err)
	}
	return b, nil
}

func (c *BusConfig) fill() error {
	if (c.Server == nil) == (c.URL == "") {
		return errors.New("give either an embedded server or the URL of one")
	}
	if err := checkName("run", c.Run); err != nil {
		return err
	}
	if err := checkName("name", c.Name); err != nil {
		return err
	}
	if !c.Role.valid() {
		return fmt.Errorf("role is %q: the roles are %v", c.Role, Roles)
	}
	if c.Credentials == "" && c.Server != nil && c.Server.keys != "" {
		c.Credentials = keyFile(c.Server.keys, c.Role)
	}
	if c.Host == "" {
		c.Host, _ = os.Hostname() // without one it stays empty
	}
	setDefault(&c.Started, time.Now())
	setDefault(&c.TrajBytes, 1<<30)
	setDefault(&c.TrajAge, time.Hour)
	setDefault(&c.DeadBytes, 64<<20)
	setDefault(&c.CheckpointBytes, 4<<30)
	setDefault(&c.AckWait, 30*time.Second)
	setDefault(&c.HeartbeatTTL, 10*time.Second)
	setDefault(&c.LeaseTTL, leaseTTL)
	setDefault(&c.ConfigCheck, configCheck)
	setDefault(&c.StallTimeout, stallTimeout)
	if c.Jitter == nil {
		c.Jitter = func(max time.Duration) time.Duration { return rand.N(max) }
	}
	for _, bound := range []struct {
		field  string
		v, low int64
	}{
		{"bytes of the trajectory stream", c.TrajBytes, MaxMessage},
		{"bytes of the dead-letter stream", c.DeadBytes, MaxMessage},
		{"bytes of the checkpoint store", c.CheckpointBytes, 1 << 20},
	} {
		if bound.v < bound.low {
			return fmt.Errorf("%s are %d, at least %d", bound.field, bound.v, bound.low)
		}
	}
	if c.TrajAge < dedupeWindow {
		return fmt.Errorf("age of the trajectory stream is %v, at least %v", c.TrajAge, dedupeWindow)
	}
	if c.HeartbeatTTL < time.Second {
		return fmt.Errorf("heartbeat's life is %v, at least 1s: the server counts in seconds", c.HeartbeatTTL)
	}
	return nil
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func (b *Bus) dial(ctx context.Context) error {
	closed := make(chan struct{})
	connected := make(chan struct{})
	opts := []nats.Option{
		nats.Name(b.cfg.Run + "/" + string(b.cfg.Role) + "/" + b.cfg.Name),
		nats.CustomInboxPrefix(b.cfg.Role.inbox()),
		nats.RetryOnFailedConnect(true), // roles start in any order
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, 2*reconnectJitter),
		nats.ReconnectBufSize(-1), // what is buffered there can be lost without a word
		// A client of a cut-off server hangs for as long as this, a minute by
		// default.
		nats.FlusherTimeout(time.Second),
		nats.PingInterval(pingInterval), // the third without an answer ends the connection
		nats.ConnectHandler(func(*nats.Conn) { close(connected) }),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.ErrorHandler(b.asyncError),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.counters.disconnects.Add(1)
				b.log.Warn("connection to the bus is lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.counters.reconnects.Add(1)
			b.log.Info("connection to the bus is back", "server", nc.ConnectedServerName())
		}),
	}
	if b.cfg.Credentials != "" {
		own, err := credentials(b.cfg.Credentials)
		if err != nil {
			return err
		}
		opts = append(opts, own...)
	}
	if b.cfg.CA != "" {
		opts = append(opts, encrypted(b.cfg.CA))
	}
	if b.cfg.Server != nil {
		opts = append(opts, nats.InProcessServer(b.cfg.Server.server))
	}
	nc, err := nats.Connect(b.cfg.URL, opts...)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", b.where(), err)
	}
	b.nc = nc
	select {
	case <-connected:
	case <-closed: // after the server has refused the credentials
		return fmt.Errorf("connect to %s: %w", b.where(), nc.LastError())
	case <-ctx.Done():
		err := ctx.Err()
		if last := nc.LastError(); last != nil {
			err = fmt.Errorf("%w; last: %w", err, last)
		}
		return fmt.Errorf("connect to %s: %w", b.where(), err)
	}
	b.js, err = jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(2*maxInFlight), // never reached: inFlight bounds it
		jetstream.WithPublishAsyncTimeout(publishTimeout))
	return err
}

func (b *Bus) where() string {
	if b.cfg.Server != nil {
		return "the embedded server"
	}
	return b.cfg.URL
}

// credentials reads either kind of file. Where it holds the certificate of an
// authority as well, servers must have theirs from it.
func credentials(path string) ([]nats.Option, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var opts []nats.Option
	if strings.Contains(string(content), "BEGIN CERTIFICATE") {
		opts = append(opts, encrypted(path))
	}
	if strings.Contains(string(content), "BEGIN NATS USER JWT") {
		return append(opts, nats.UserCredentials(path)), nil
	}
	opt, err := nats.NkeyOptionFromSeed(path)
	if err != nil {
		return nil, fmt.Errorf("credentials in %s: %w", path, err)
	}
	return append(opts, opt), nil
}

// encrypted connects by TLS 1.3 and to nobody whose certificate is not from an
// authority in the PEM file.
func encrypted(file string) nats.Option {
	return func(o *nats.Options) error {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13}
		return nats.RootCAs(file)(o)
	}
}

// asyncError hears what no call returns: above all a permission denial, after
// which the call in question just times out.
func (b *Bus) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		b.counters.denied.Add(1)
		b.log.Error("the bus denied this role a subject", "role", b.cfg.Role, "error", err)
	case errors.Is(err, nats.ErrSlowConsumer):
		b.counters.slowConsumers.Add(1)
		b.log.Warn("messages were dropped for a slow subscriber", "subject", subject)
	default:
		b.counters.asyncErrors.Add(1)
		b.log.Warn("error on the bus", "subject", subject, "error", err)
	}
}

// Connected reports whether the connection stands at this moment.
func (b *Bus) Connected() bool { return b.nc.IsConnected() }

// Close gives up what is under way and closes the connection. Callbacks of
// PublishChunk have all been called when it returns.
func (b *Bus) Close() {
	b.starting.Lock()
	b.cancel()
	b.starting.Unlock()
	b.pending.Wait()
	if b.nc != nil {
		b.nc.Close()
	}
}

// start runs f in a goroutine that Close awaits, or reports false where the bus is closed.
func (b *Bus) start(f func()) bool {
	b.starting.Lock()
	defer b.starting.Unlock()
	if b.ctx.Err() != nil {
		return false
	}
	b.pending.Go(f)
	return true
}

// fits refuses a message that the server would refuse by closing the
// connection.
func (b *Bus) fits(what string, n int) error {
	if limit := b.nc.MaxPayload() - headerRoom; int64(n) > limit {
		return fmt.Errorf("%s has %d bytes and the server takes %d: raise its max_payload or send less at a time: %w", what, n, limit, ErrTooLarge)
	}
	return nil
}

// cause puts ErrDisconnected in front of an error that has it as its reason.
func (b *Bus) cause(err error) error {
	if errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrConnectionReconnecting) || errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return err
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
