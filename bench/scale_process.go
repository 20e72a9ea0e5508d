package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one role of a fleet in a process of its own, so that its processor time and
// memory are its own.
type process struct {
	name    string
	cmd     *exec.Cmd
	monitor string // address of its metrics, empty: none
	ended   chan struct{}

	mu   sync.Mutex
	said bytes.Buffer // on standard error, the first maxSaid bytes
}

const (
	maxSaid = 64 << 10
	// endPatience is how long a role may take to end.
	endPatience = 20 * time.Second
)

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if room := maxSaid - p.said.Len(); room > 0 {
		p.said.Write(text[:min(room, len(text))])
	}
	return len(text), nil
}

func startProcess(name string, cmd *exec.Cmd, monitor string) (*process, error) {
	p := &process{name: name, cmd: cmd, monitor: monitor, ended: make(chan struct{})}
	cmd.Stderr = p
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // how it ended is asked of ProcessState
	}()
	return p, nil
}

// stop asks the process to end and waits for it, at last with force.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	late := time.AfterFunc(endPatience, func() { _ = p.cmd.Process.Kill() })
	<-p.ended
	late.Stop()
}

// failure says why a process that should run does not, nil if it does.
func (p *process) failure() error {
	select {
	case <-p.ended:
		p.mu.Lock()
		defer p.mu.Unlock()
		text := p.said.String()
		return fmt.Errorf("%s has ended with %v: %s", p.name, p.cmd.ProcessState, text[max(0, len(text)-1000):])
	default:
		return nil
	}
}

// cpu is the seconds of processor time that the process's threads have had. The system
// counts them in nanoseconds; those of threads that are gone are missing, but Go keeps its.
func (p *process) cpu() (float64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		return 0, errors.Join(p.failure(), fmt.Errorf("processor time of %s: /proc has no schedstat of it", p.name))
	}
	sum := 0.0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has just ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %s has %q", p.name, f, text)
		}
		sum += float64(ns) / 1e9
	}
	return sum, nil
}

// memory is the process's resident bytes.
func (p *process) memory() (float64, error) {
	text := field(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmRSS", "")
	kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(text, "kB")), 64)
	if err != nil {
		return 0, errors.Join(p.failure(), fmt.Errorf("memory of %s: VmRSS is %q", p.name, text))
	}
	return 1024 * kib, nil
}

// metric is the sum of a metric over its labels, as the process serves it.
func (p *process) metric(name string) (float64, error) {
	client := http.Client{Timeout: 10 * time.Second}
	reply, err := client.Get("http://" + p.monitor + "/metrics")
	if err != nil {
		return 0, errors.Join(p.failure(), err)
	}
	defer reply.Body.Close()
	sum, found := 0.0, false
	lines := bufio.NewScanner(io.LimitReader(reply.Body, 8<<20))
	for lines.Scan() {
		line := lines.Text()
		end := strings.LastIndexByte(line, ' ')
		if end < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if is, _, _ := strings.Cut(line[:end], "{"); is != name {
			continue
		}
		v, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metrics of %s: %q", p.name, line)
		}
		sum, found = sum+v, true
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", p.name, err)
	}
	if !found {
		return 0, fmt.Errorf("metrics of %s have no %s", p.name, name)
	}
	return sum, nil
}

// freeAddress is one on this machine that nobody listens on at the moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
