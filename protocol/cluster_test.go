package protocol_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// cluster is three servers in this process, started from the files that Init writes.
type cluster struct {
	files   *protocol.ClusterFiles
	servers []*protocol.Server
	dir     string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{dir: t.TempDir()}
	var hosts []string
	for range 3 {
		hosts = append(hosts, freeHost(t, hosts))
	}
	c.files = initCluster(t, protocol.Cluster{Dir: c.dir, Name: "test", Hosts: hosts, Keys: []string{"actor@park"}, Now: time.Now()})
	var starting sync.WaitGroup
	c.servers = make([]*protocol.Server, 3)
	for i := range c.servers {
		starting.Go(func() {
			s, err := protocol.StartServer(protocol.ServerConfig{File: filepath.Join(c.files.Nodes[i].Dir, "nats-server.conf")}, hclog.NewNullLogger())
			if err != nil {
				t.Error(err)
				return
			}
			c.servers[i] = s
		})
	}
	starting.Wait()
	t.Cleanup(func() {
		for _, s := range c.servers {
			if s != nil {
				s.Close()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// freeHost is an address on loopback whose port, and that for routes, nobody has. It is below those that
// connections get, or one of another test would have it by the time that the server listens.
func freeHost(t *testing.T, taken []string) string {
	t.Helper()
	free := func(port int) bool {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
		}
		return err == nil
	}
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if !slices.Contains(taken, address) && free(port) && free(port+2000) {
			return address
		}
	}
	t.Fatal("no free ports")
	return ""
}

func initCluster(t *testing.T, c protocol.Cluster) *protocol.ClusterFiles {
	t.Helper()
	files, err := c.Init()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (c *cluster) key(name string) string { return filepath.Join(c.dir, "keys", name+".nk") }

func (c *cluster) bus(role protocol.Role) protocol.BusConfig {
	return protocol.BusConfig{URL: c.files.URL(), Role: role, Credentials: c.key(string(role)), ConfigCheck: 10 * time.Millisecond}
}

// client is a plain client with a role's key, whose denials it collects.
func (c *cluster) client(t *testing.T, key string, inbox string) (*nats.Conn, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var denied []string
	opt, err := nats.NkeyOptionFromSeed(c.key(key))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(c.files.URL(), opt, nats.RootCAs(filepath.Join(c.dir, "ca.pem")), nats.CustomInboxPrefix(inbox),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			mu.Lock()
			defer mu.Unlock()
			denied = append(denied, err.Error())
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(denied)
	}
}

// All that roles do works over TLS with their keys on three servers, an actor's with a
// key for its run only, and nothing of it is denied. What their keys are not for is.
func TestRolesOnACluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	learner, replay := connect(t, c.bus(protocol.RoleLearner)), connect(t, c.bus(protocol.RoleReplay))
	actor := c.bus(protocol.RoleActor)
	actor.Credentials = c.key("actor@park")
	actors := []*protocol.Bus{connect(t, c.bus(protocol.RoleActor)), connect(t, actor)}
	operator := connect(t, c.bus(protocol.RoleOperator))

	if err := learner.PutConfig(t.Context(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	var got received
	background(t, func(ctx context.Context) error {
		return replay.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) { got.add(m.Chunk.Seq); _ = m.Ack() })
	})
	background(t, func(ctx context.Context) error { return replay.ServeSamples(ctx, &replayStub{width: 2}) })
	lease := take(t, learner)
	params, err := lease.NewBroadcaster()
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range actors {
		if have, err := a.GetConfig(t.Context()); err != nil || string(have) != "one" {
			t.Errorf("configuration %q, %v", have, err)
		}
		mustPublish(t, a, chunk(uint64(i)))
	}
	eventually(t, "chunks arrive", got.all(0, 1))
	send(t, params, 1)
	for _, a := range actors {
		eventually(t, "parameters arrive", follow(t, a).at(1))
	}
	var flows atomic.Int64
	background(t, func(ctx context.Context) error {
		return actors[1].FollowFlow(ctx, func(protocol.Flow) { flows.Add(1) })
	})
	eventually(t, "flow arrives", func() bool {
		if err := replay.PublishFlow(protocol.Flow{}); err != nil {
			t.Fatal(err)
		}
		return flows.Load() > 0
	})
	remote, err := learner.RemoteReplay(stubShape)
	if err != nil {
		t.Fatal(err)
	}
	var batch protocol.Batch
	if err := remote.Sample(t.Context(), &batch); err != nil {
		t.Error(err)
	}
	for version := range uint64(2) {
		if err := lease.PutCheckpoint(t.Context(), version, strings.NewReader("checkpoint"), 1); err != nil {
			t.Error(err)
		}
	}
	var ckpt bytes.Buffer
	if version, err := learner.GetCheckpoint(t.Context(), &ckpt); err != nil || version != 1 || ckpt.String() != "checkpoint" {
		t.Errorf("checkpoint %d of %q, %v", version, &ckpt, err)
	}
	everybody := append([]*protocol.Bus{learner, replay}, actors...)
	for _, b := range everybody {
		background(t, func(ctx context.Context) error { return b.Heartbeat(ctx, func(*protocol.Status) {}) })
	}
	eventually(t, "heartbeats arrive", func() bool {
		beats, err := operator.Heartbeats(t.Context())
		return err == nil && len(beats) == 3 // the actors share a name
	})
	if _, err := learner.Heartbeats(t.Context()); err != nil {
		t.Error(err)
	}
	for _, b := range append(everybody, operator) {
		if s := b.Stats(); s.Denied != 0 || s.AsyncErrors != 0 || s.HeartbeatLost != 0 {
			t.Errorf("%+v", s)
		}
	}

	nc, _ := c.client(t, "operator", "_INBOX_x")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"TRAJ", "DEAD", "KV_cfg", "KV_hb", "OBJ_CKPT"} {
		if stream, err := js.Stream(t.Context(), name); err != nil || stream.CachedInfo().Config.Replicas != 3 {
			t.Errorf("stream %s has not three replicas: %v", name, err)
		}
	}

	for _, test := range []struct {
		key, inbox         string
		publish, subscribe []string
	}{
		{"actor", "_INBOX_actor", []string{
			"params.park.chunk", "flow.park", "dead.park", "batch.park.get", "_INBOX_learner.x", "_INBOX_actor.x", "$SRV.PING",
			"$KV.cfg.park.config", "$KV.cfg.park.lease", "$KV.hb.park.learner.learner", "$KV.hb.park.actor.a.b", "$O.CKPT.M.x",
			"$JS.API.INFO", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.TRAJ", "$JS.API.STREAM.DELETE.TRAJ", "$JS.API.STREAM.PURGE.TRAJ",
			"$JS.API.STREAM.MSG.GET.TRAJ", "$JS.API.STREAM.INFO.TRAJ", "$JS.API.DIRECT.GET.TRAJ", "$JS.API.DIRECT.GET.OBJ_CKPT",
			"$JS.API.DIRECT.GET.KV_cfg.$KV.cfg.park.checkpoint",
			"$JS.API.CONSUMER.CREATE.TRAJ.x", "$JS.API.CONSUMER.MSG.NEXT.TRAJ.replay-park", "$JS.ACK.TRAJ.replay-park.1.1.1.1.1",
		}, []string{"traj.>", "params.park.get", "batch.>", "dead.>", "$KV.>", "_INBOX_learner.>", "$SRV.>", ">"}},
		{"actor@park", "_INBOX_actor", []string{
			"traj.other.a0", "params.other.get", "$KV.hb.other.actor.a", "$JS.API.DIRECT.GET.KV_cfg.$KV.cfg.other.config",
		}, []string{"params.other.chunk", "flow.other", "params.*.chunk"}},
		{"replay", "_INBOX_replay", []string{
			"traj.park.a0", "params.park.chunk", "params.park.get", "batch.park.get", "$KV.cfg.park.config", "$KV.cfg.park.lease", "$KV.hb.park.learner.learner", "$O.CKPT.M.x",
			"_INBOX_actor.x", "$JS.API.STREAM.DELETE.TRAJ", "$JS.API.STREAM.PURGE.TRAJ", "$JS.API.CONSUMER.CREATE.KV_cfg.x", "$JS.API.CONSUMER.DELETE.TRAJ.replay-park",
		}, []string{"traj.>", "params.>", "flow.>", "$KV.>", "_INBOX_learner.>", "_INBOX_actor.>", ">"}},
		{"learner", "_INBOX_learner", []string{
			"traj.park.a0", "params.park.get", "flow.park", "$SRV.PING", "$KV.hb.park.replay.replay", "$KV.hb.park.actor.a", "_INBOX_replay.x",
			"$JS.API.INFO", "$JS.API.STREAM.DELETE.TRAJ", "$JS.API.STREAM.PURGE.TRAJ", "$JS.API.STREAM.PURGE.KV_cfg", "$JS.API.STREAM.SNAPSHOT.TRAJ", "$JS.API.STREAM.MSG.DELETE.TRAJ", "$JS.API.STREAM.LEADER.STEPDOWN.TRAJ",
		}, []string{"traj.>", "params.park.chunk", "batch.>", "$KV.>", "_INBOX_replay.>", "_INBOX_actor.>", ">"}},
	} {
		nc, denied := c.client(t, test.key, test.inbox)
		for _, subject := range test.publish {
			if err := nc.Publish(subject, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		for _, subject := range test.subscribe {
			if _, err := nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
		}
		want := func() (missing []string) {
			text := strings.Join(denied(), "\n")
			for _, subject := range test.publish {
				if !strings.Contains(strings.ToLower(text), strings.ToLower(`publish to "`+subject+`"`)) {
					missing = append(missing, "publish to "+subject)
				}
			}
			for _, subject := range test.subscribe {
				if !strings.Contains(strings.ToLower(text), strings.ToLower(`subscription to "`+subject+`"`)) {
					missing = append(missing, "subscribe to "+subject)
				}
			}
			return missing
		}
		if err := nc.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		for len(want()) > 0 && ctx.Err() == nil {
			_ = nc.FlushWithContext(ctx)
		}
		cancel()
		if missing := want(); len(missing) > 0 {
			t.Errorf("%s may %s", test.key, strings.Join(missing, ", "))
		}
	}
}

// Nobody gets in without a key, a key of this cluster, the authority or TLS 1.3.
func TestClusterRefuses(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	stranger := initCluster(t, protocol.Cluster{Dir: t.TempDir(), Name: "other", Hosts: []string{"127.0.0.1"}, Now: time.Now()})
	strange := stranger.Keys[slices.IndexFunc(stranger.Keys, func(k string) bool { return filepath.Base(k) == "actor.nk" })]
	bare := filepath.Join(t.TempDir(), "actor.nk")
	content, err := os.ReadFile(c.key("actor"))
	if err != nil {
		t.Fatal(err)
	}
	seed, _, _ := strings.Cut(string(content), "\n")
	writeFile(t, bare, seed+"\n")
	for name, test := range map[string]struct {
		creds, ca, want string
	}{
		"no key":                     {ca: filepath.Join(c.dir, "ca.pem"), want: "Authorization Violation"},
		"a key of another cluster":   {creds: strange, ca: filepath.Join(c.dir, "ca.pem"), want: "Authorization Violation"},
		"the authority is not known": {creds: bare, want: "certificate signed by unknown authority"},
		"another authority":          {creds: strange, want: "certificate signed by unknown authority"},
	} {
		cfg := c.bus(protocol.RoleActor)
		cfg.Run, cfg.Name, cfg.Credentials, cfg.CA = "park", "a", test.creds, test.ca
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		b, err := protocol.Connect(ctx, cfg, hclog.NewNullLogger())
		cancel()
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}

	opt, err := nats.NkeyOptionFromSeed(c.key("operator"))
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(c.dir, "ca.pem")
	if nc, err := nats.Connect(c.files.URL(), opt, nats.Secure(&tls.Config{MaxVersion: tls.VersionTLS12}), nats.RootCAs(ca)); err == nil {
		nc.Close()
		t.Error("connected by TLS 1.2")
	} else if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("by TLS 1.2: %v", err)
	}
	// A route without a certificate.
	n := c.files.Nodes[0]
	conn, err := net.Dial("tcp", net.JoinHostPort(n.Host, fmt.Sprint(n.Port+2000)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	text, err := os.ReadFile(ca)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	secure := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: n.Host})
	err = secure.Handshake()
	if err == nil {
		_, err = secure.Read(make([]byte, 1)) // the server's verdict comes after the client's part
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("a route without a certificate: %v", err)
	}
}

// Of what was acknowledged nothing is lost when the server that leads the stream goes.
func TestClusterOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	keeper := c.bus(protocol.RoleReplay)
	keeper.AckWait = 2 * time.Second // what was on its way from the server comes again
	replay, actor := connect(t, keeper), connect(t, c.bus(protocol.RoleActor))
	var mu sync.Mutex
	arrived, acknowledged := map[uint64]bool{}, map[uint64]bool{}
	background(t, func(ctx context.Context) error {
		return replay.ConsumeChunks(ctx, func(m *protocol.ChunkMsg) {
			mu.Lock()
			arrived[m.Chunk.Seq] = true
			mu.Unlock()
			_ = m.Ack()
		})
	})
	count := func(m map[uint64]bool) int {
		mu.Lock()
		defer mu.Unlock()
		return len(m)
	}
	stop := background(t, func(ctx context.Context) error {
		for seq := uint64(0); ctx.Err() == nil; seq++ {
			for ctx.Err() == nil { // again under the same message id, as actors do
				outcome := make(chan error, 1)
				err := actor.PublishChunk(ctx, chunk(seq), func(_ uint64, err error) { outcome <- err })
				if err == nil {
					err = <-outcome
				}
				if err == nil {
					mu.Lock()
					acknowledged[seq] = true
					mu.Unlock()
					break
				}
			}
		}
		return ctx.Err()
	})
	eventually(t, "trajectories flow", func() bool { return count(acknowledged) > 100 })

	nc, _ := c.client(t, "operator", "_INBOX_x")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "TRAJ")
	if err != nil {
		t.Fatal(err)
	}
	leader := stream.CachedInfo().Cluster.Leader
	i := slices.IndexFunc(c.files.Nodes, func(n protocol.Node) bool { return n.Name == leader })
	c.servers[i].Close()
	before := count(acknowledged)
	eventually(t, "trajectories flow again", func() bool { return count(acknowledged) > before+100 })
	stop()
	eventually(t, "all that was acknowledged has arrived", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for seq := range acknowledged {
			if !arrived[seq] {
				return false
			}
		}
		return true
	})
}

// Init keeps what is there and adds what is new.
func TestInitAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	c := protocol.Cluster{Dir: dir, Name: "test", Hosts: []string{"bus.example"}, Install: "/etc/nats", Now: now}
	initCluster(t, c)
	read := func() map[string]string {
		files := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if want := fs.FileMode(0o600); err != nil || !d.IsDir() && info.Mode().Perm() != want || d.IsDir() && info.Mode().Perm() != 0o700 && path != dir {
				t.Errorf("%s is %v", path, info.Mode())
			}
			if !d.IsDir() {
				content, err := os.ReadFile(path)
				files[strings.TrimPrefix(path, dir+"/")] = string(content)
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	changed := func(a, b map[string]string) (names []string) {
		for name, content := range a {
			if b[name] != content {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	first := read()
	if conf := first["bus.example/nats-server.conf"]; !strings.Contains(conf, `"/etc/nats/server.pem"`) || strings.Contains(conf, "cluster {") {
		t.Errorf("the configuration of a single server:\n%s", conf)
	}
	initCluster(t, c)
	second := read()
	if names := changed(first, second); len(names) > 0 || len(second) != len(first) {
		t.Errorf("the same again has changed %v", names)
	}
	c.Hosts, c.Keys = []string{"bus.example", "10.0.0.2", "[2001:db8::1]:4300"}, []string{"actor-paris", "actor@small"}
	initCluster(t, c)
	third := read()
	if names := changed(first, third); fmt.Sprint(names) != "[bus.example/nats-server.conf]" {
		t.Errorf("more hosts have changed %v", names)
	}
	for _, name := range []string{"2001-db8--1-4300/server.pem", "keys/actor-paris.nk", "keys/actor@small.nk"} {
		if third[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
	if conf := third["10.0.0.2/nats-server.conf"]; !strings.Contains(conf, `"tls://[2001:db8::1]:6300"`) || strings.Count(conf, "nkey:") != len(protocol.Roles)+2 {
		t.Errorf("the configuration of one of three:\n%s", conf)
	}
	if err := os.Remove(filepath.Join(dir, "keys", "actor-paris.nk")); err != nil {
		t.Fatal(err)
	}
	c.Keys, c.Now = nil, now.Add(500*24*time.Hour)
	initCluster(t, c)
	fourth := read()
	if names := changed(third, fourth); !slices.Contains(names, "10.0.0.2/server.pem") || slices.Contains(names, "10.0.0.2/server.key") {
		t.Errorf("in the last third of their life certificates are renewed, with their keys: changed are %v", names)
	}
	if conf := fourth["10.0.0.2/nats-server.conf"]; strings.Count(conf, "nkey:") != len(protocol.Roles)+1 {
		t.Errorf("a key that was taken back is let in:\n%s", conf)
	}
	c.Now = now.Add(4000 * 24 * time.Hour)
	if _, err := c.Init(); err == nil || !strings.Contains(err.Error(), "was valid until 2036-") {
		t.Errorf("with an authority that has ended: %v", err)
	}
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]protocol.Cluster{
		"0 hosts":                           {Name: "n"},
		"2 hosts":                           {Name: "n", Hosts: []string{"a", "b"}},
		"name of the cluster":               {Name: "a b", Hosts: []string{"a"}},
		`host "a b"`:                        {Name: "n", Hosts: []string{"a b"}},
		`host "../x"`:                       {Name: "n", Hosts: []string{"../x"}},
		`host "a:70000"`:                    {Name: "n", Hosts: []string{"a:70000"}},
		"a and a are the same":              {Name: "n", Hosts: []string{"a", "b", "a"}},
		"keys' folder and keys are":         {Name: "n", Hosts: []string{"keys"}},
		`"boss-1" is named after`:           {Name: "n", Hosts: []string{"a"}, Keys: []string{"boss-1"}},
		`label of key actor-../x is "../x"`: {Name: "n", Hosts: []string{"a"}, Keys: []string{"actor-../x"}},
		`"learner@x": only`:                 {Name: "n", Hosts: []string{"a"}, Keys: []string{"learner@x"}},
		"run of key actor@a.b is":           {Name: "n", Hosts: []string{"a"}, Keys: []string{"actor@a.b"}},
		"label of key actor-a b is":         {Name: "n", Hosts: []string{"a"}, Keys: []string{"actor-a b"}},
	} {
		c.Dir, c.Now = t.TempDir(), time.Now()
		if _, err := c.Init(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
	dir := t.TempDir()
	initCluster(t, protocol.Cluster{Dir: dir, Name: "n", Hosts: []string{"a"}, Now: time.Now()})
	writeFile(t, filepath.Join(dir, "ca.pem"), "nothing")
	if _, err := (protocol.Cluster{Dir: dir, Name: "n", Hosts: []string{"a"}, Now: time.Now()}).Init(); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("got %v", err)
	}
}
