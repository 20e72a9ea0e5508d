package protocol

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
)

// ServerConfig describes a NATS server run inside this process.
type ServerConfig struct {
	StoreDir string // JetStream's files; required
	Listen   string // host:port to listen on, port 0 for a free one; empty: in-process connections only
	Keys     string // folder of key files, <role>.nk made where missing; empty: no authentication
	File     string // nats-server configuration file to start from (TLS, users, clustering); may be empty

	Stop <-chan struct{} // closed when the wait for it to be ready is to be given up; nil: never
}

// Server is an embedded NATS server. Buses in this process connect to it by
// BusConfig.Server, others by URL; both take the same code path and have the
// same accounts.
type Server struct {
	server *server.Server
	keys   string
	broken *breakage
}

// startTimeout bounds how long a server may take to recover its store. An
// empty one is ready in milliseconds.
const startTimeout = 60 * time.Second

// StartServer starts a server and waits until it takes connections. It
// refuses to listen beyond loopback without authentication. What keeps the
// server from starting is the error; that of a start given up is
// context.Canceled.
func StartServer(cfg ServerConfig, log hclog.Logger) (*Server, error) {
	opts, err := serverOptions(cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	fatal := make(chan string, 1)
	broken := &breakage{done: make(chan struct{})}
	s.SetLoggerV2(serverLog{log, fatal, broken}, log.IsDebug(), false, false)
	s.Start()
	if err = ready(s, fatal, cfg.Stop); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS server with its store in %s: %w", opts.StoreDir, err)
	}
	return &Server{server: s, keys: cfg.Keys, broken: broken}, nil
}

// ready waits until a server takes connections.
func ready(s *server.Server, fatal <-chan string, stop <-chan struct{}) error {
	for late := time.Now().Add(startTimeout); ; {
		select {
		case why := <-fatal: // the server only logs it
			return errors.New(why)
		case <-stop:
			return context.Canceled
		default:
		}
		if s.ReadyForConnections(25 * time.Millisecond) {
			return nil
		}
		if time.Now().After(late) {
			return fmt.Errorf("not ready after %v", startTimeout)
		}
	}
}

func serverOptions(cfg ServerConfig) (*server.Options, error) {
	opts := &server.Options{}
	if cfg.File != "" {
		var err error
		if opts, err = server.ProcessConfigFile(cfg.File); err != nil {
			return nil, fmt.Errorf("configuration file: %w", err)
		}
	}
	opts.NoSigs = true // the process has its own signal handling
	opts.NoLog = true  // and its own log
	opts.JetStream = true
	opts.DisableJetStreamBanner = true
	if opts.MaxPayload == 0 {
		opts.MaxPayload = MaxMessage
	}
	if cfg.StoreDir != "" {
		opts.StoreDir = cfg.StoreDir
	}
	if opts.StoreDir == "" {
		return nil, errors.New("no store folder is given: JetStream would write to the system's temporary folder")
	}
	if err := listen(opts, cfg); err != nil {
		return nil, err
	}
	if cfg.Keys != "" {
		users, err := openKeys(cfg.Keys)
		if err != nil {
			return nil, err
		}
		for _, u := range users {
			opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: u.public, Permissions: u.permissions()})
		}
	}
	return opts, guarded(opts)
}

// guarded refuses a server that would let anyone in who reaches it, by any of its
// ports.
func guarded(opts *server.Options) error {
	open := func(what, host string, port int, safe bool, remedy string) error {
		if safe || loopback(host) {
			return nil
		}
		return fmt.Errorf("%s on %s would let anyone in: %s, or listen on 127.0.0.1", what, net.JoinHostPort(host, strconv.Itoa(port)), remedy)
	}
	clients := opts.DontListen || authenticates(opts)
	cluster, leaf, web, mqtt := opts.Cluster, opts.LeafNode, opts.Websocket, opts.MQTT
	const users = "set up keys or users"
	return errors.Join(
		open("listening", opts.Host, opts.Port, clients, users),
		open("listening for other servers of the cluster", cluster.Host, cluster.Port,
			cluster.Port == 0 || cluster.Username != "" || cluster.TLSConfig != nil && cluster.TLSConfig.ClientAuth == tls.RequireAndVerifyClientCert,
			"have them show certificates (tls with verify) or a password"),
		open("listening for gateways", opts.Gateway.Host, opts.Gateway.Port,
			opts.Gateway.Port == 0 || opts.Gateway.Username != "" || opts.Gateway.TLSConfig != nil, "have them show certificates or a password"),
		open("listening for leaf nodes", leaf.Host, leaf.Port, leaf.Port == 0 || authenticates(opts) || leaf.Username != "" || len(leaf.Users) > 0 || leaf.Nkey != "", users),
		open("listening for web sockets", web.Host, web.Port, web.Port == 0 || clients, users),
		open("listening for MQTT", mqtt.Host, mqtt.Port, mqtt.Port == 0 || clients, users),
		open("answering questions about connections and subjects", cmp.Or(opts.HTTPHost, opts.Host), max(opts.HTTPPort, opts.HTTPSPort), opts.HTTPPort == 0 && opts.HTTPSPort == 0,
			"it has no users"))
}

func listen(opts *server.Options, cfg ServerConfig) error {
	if cfg.Listen == "" {
		// A configuration file is written to be connected to.
		opts.DontListen = cfg.File == ""
		return nil
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q is not host:port: %w", cfg.Listen, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("listen address %q: the port is a number from 0 to 65535", cfg.Listen)
	}
	opts.Host, opts.Port = host, int(n)
	if n == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func authenticates(opts *server.Options) bool {
	return opts.NoAuthUser == "" && (len(opts.Nkeys) > 0 || len(opts.Users) > 0 || opts.Username != "" ||
		opts.Authorization != "" || len(opts.TrustedOperators) > 0 || len(opts.TrustedKeys) > 0 || opts.TLSVerify)
}

// URL is the address other processes connect to, empty when the server does
// not listen.
func (s *Server) URL() string {
	if s.server.Addr() == nil {
		return ""
	}
	return s.server.ClientURL()
}

// ErrStore says that a server has failed to write to its store, for want of room for
// example. It takes nothing into that stream any more until it is started again.
var ErrStore = errors.New("the NATS server can no longer store: see to its disk and start it again")

// breakage is why a server can no longer store. The server itself only logs it, and
// goes on calling itself healthy.
type breakage struct {
	once sync.Once
	err  error // set when done is closed
	done chan struct{}
}

func (b *breakage) set(why string) {
	b.once.Do(func() {
		b.err = fmt.Errorf("%w: %s", ErrStore, why)
		close(b.done)
	})
}

// Await returns an error that wraps ErrStore when the server can no longer store, and
// that of ctx when that ends first.
func (s *Server) Await(ctx context.Context) error {
	select {
	case <-s.broken.done:
		return s.broken.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close shuts the server down and waits until its store is on disk.
func (s *Server) Close() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// serverLog passes the server's log on; its notices are debugging here.
type serverLog struct {
	log    hclog.Logger
	fatal  chan<- string // the first reason why it cannot run
	broken *breakage
}

func (l serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(format string, v ...any)  { l.log.Trace(fmt.Sprintf(format, v...)) }
func (l serverLog) Tracef(format string, v ...any)  { l.log.Trace(fmt.Sprintf(format, v...)) }

func (l serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	if strings.Contains(format, "critical write error") {
		l.broken.set(text)
	}
}

func (l serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		l.log.Error(fmt.Sprintf(format, v...))
	}
}
