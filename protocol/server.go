package protocol

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// ServerConfig describes a NATS server run inside this process.
type ServerConfig struct {
	StoreDir string // JetStream's files; required
	Listen   string // host:port to listen on, port 0 for a free one; empty: in-process connections only
	Keys     string // folder of <role>.nk seed files, made where missing; empty: no authentication
	File     string // nats-server configuration file to start from (TLS, users, clustering); may be empty

	Stop <-chan struct{} // closed when the wait for it to be ready is to be given up; nil: never
}

// Server is an embedded NATS server. Buses in this process connect to it by
// BusConfig.Server, others by URL; both take the same code path and have the
// same accounts.
type Server struct {
	server *server.Server
	keys   string
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
	s.SetLoggerV2(serverLog{log, fatal}, log.IsDebug(), false, false)
	s.Start()
	if err = ready(s, fatal, cfg.Stop); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS server with its store in %s: %w", opts.StoreDir, err)
	}
	return &Server{server: s, keys: cfg.Keys}, nil
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
		for _, role := range Roles {
			public, err := publicKey(cfg.Keys, role)
			if err != nil {
				return nil, err
			}
			opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: public, Permissions: role.permissions()})
		}
	}
	if !opts.DontListen && !loopback(opts.Host) && !authenticates(opts) {
		return nil, fmt.Errorf("listening on %s would let anyone in: set up keys or users, or listen on 127.0.0.1", net.JoinHostPort(opts.Host, strconv.Itoa(opts.Port)))
	}
	return opts, nil
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

// Close shuts the server down and waits until its store is on disk.
func (s *Server) Close() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// keyFile is where a role's seed lies in a folder of keys.
func keyFile(dir string, role Role) string { return filepath.Join(dir, string(role)+".nk") }

// publicKey reads the role's seed, made and written first where missing, and
// returns the public key.
func publicKey(dir string, role Role) (string, error) {
	path := keyFile(dir, role)
	seed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		seed, err = createKey(dir, path)
	}
	if err != nil {
		return "", fmt.Errorf("key of role %s: %w", role, err)
	}
	pair, err := nkeys.ParseDecoratedNKey(seed)
	if err != nil {
		return "", fmt.Errorf("key of role %s in %s: %w", role, path, err)
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return "", fmt.Errorf("key of role %s in %s: %w", role, path, err)
	}
	return public, nil
}

func createKey(dir, path string) ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return seed, os.WriteFile(path, append(seed, '\n'), 0o600)
}

// serverLog passes the server's log on; its notices are debugging here.
type serverLog struct {
	log   hclog.Logger
	fatal chan<- string // the first reason why it cannot run
}

func (l serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(format string, v ...any)  { l.log.Trace(fmt.Sprintf(format, v...)) }
func (l serverLog) Tracef(format string, v ...any)  { l.log.Trace(fmt.Sprintf(format, v...)) }

func (l serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
		l.log.Error(fmt.Sprintf(format, v...))
	}
}
