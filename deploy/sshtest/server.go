// Package sshtest is an SSH server for tests, as net/http/httptest is one for HTTP: it runs what a client
// asks for with /bin/sh, really, in a home folder of its own, so that tests of what runs over ssh need
// no more than the client.
//
// It is a small one: public keys of one user, sessions, exec, environment of the process that runs the
// test but for HOME. It has no terminals, subsystems or forwarding.
package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Server is a host that lets one key in.
type Server struct {
	Home     string // of whoever connects
	Port     int    // of 127.0.0.1
	Identity string // file of the client's private key
	Options  []string

	config   *ssh.ServerConfig
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{
		Home: filepath.Join(dir, "home"), Identity: filepath.Join(dir, "identity"), conns: map[net.Conn]struct{}{},
		Options: []string{"UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"), "IdentitiesOnly=yes", "ControlPath=none"},
	}
	host, err := signer("")
	if err != nil {
		t.Fatal(err)
	}
	client, err := signer(s.Identity)
	if err != nil {
		t.Fatal(err)
	}
	s.config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !slices.Equal(key.Marshal(), client.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	s.config.AddHostKey(host)
	if err := os.Mkdir(s.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Port = s.listener.Addr().(*net.TCPAddr).Port
	known := fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, ssh.MarshalAuthorizedKey(host.PublicKey()))
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known), 0o600); err != nil {
		t.Fatal(err)
	}
	s.running.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

// signer makes a key, and a file of it unless path is empty.
func signer(path string) (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if path != "" {
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return ssh.NewSignerFromKey(key)
}

// Close ends all connections and waits for what they run; what it has detached itself goes on.
func (s *Server) Close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.running.Go(func() {
			s.serve(c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (s *Server) serve(c net.Conn) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	sessions.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "only sessions") // a client that has gone does not mind
			continue
		}
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() { s.session(channel, requests) })
	}
}

func (s *Server) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	var command sync.WaitGroup
	defer command.Wait()
	for r := range requests {
		var payload struct{ Command string }
		ok := r.Type == "exec" && ssh.Unmarshal(r.Payload, &payload) == nil
		if r.WantReply {
			_ = r.Reply(ok, nil) // a client that has gone does not mind
		}
		if ok {
			command.Go(func() { s.exec(channel, payload.Command) })
		}
	}
}

// exec runs a command as sshd does: in the home folder, in a session of its own, ended by the channel's
// end only as far as it reads its input or writes.
func (s *Server) exec(channel ssh.Channel, line string) {
	defer channel.Close()
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir = s.Home
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "DREAMFLEET_") || strings.HasPrefix(v, "XDG_")
	}), "HOME="+s.Home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(channel.Stderr(), err)
		return
	}
	var input sync.WaitGroup
	input.Go(func() {
		_, _ = io.Copy(stdin, channel) // a command need not read its input
		stdin.Close()
	})
	code := 0
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		code = max(exit.ExitCode(), 1)
	} else if err != nil {
		code = 1
	}
	_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)})) // as above
	channel.Close()
	input.Wait()
}
