package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// prefix begins the names of everything that a test makes in the system, with its
// process id behind it.
const prefix = "dfc"

// network joins hosts by a bridge, at which the test itself is another host.
type network struct {
	t      *testing.T
	bridge string
	subnet string // first three bytes
	hosts  int
}

// host is a network namespace and its link to the bridge.
type host struct {
	net       *network
	namespace string // and the name of the link's end at the bridge
	address   string
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newNetwork makes the bridge, or says why it cannot.
func newNetwork(t *testing.T) (*network, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("network namespaces need root")
	}
	if err := sweep(); err != nil {
		return nil, err
	}
	n := &network{t: t, bridge: prefix + strconv.Itoa(os.Getpid()), subnet: fmt.Sprintf("10.89.%d", os.Getpid()%256)}
	if err := ip("link", "add", n.bridge, "type", "bridge"); err != nil {
		return nil, err
	}
	t.Cleanup(func() { n.check(ip("link", "del", n.bridge)) })
	for _, args := range [][]string{
		{"addr", "add", n.subnet + ".254/24", "dev", n.bridge},
		{"link", "set", n.bridge, "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	// Whether namespaces can be made shows with the first one.
	probe := n.bridge + "p"
	if err := ip("netns", "add", probe); err != nil {
		return nil, err
	}
	return n, ip("netns", "del", probe)
}

// sweep removes what tests that were killed have left.
func sweep() error {
	gone := func(name string) bool {
		rest, ok := strings.CutPrefix(name, prefix)
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		pid, err := strconv.Atoi(digits)
		return ok && err == nil && syscall.Kill(pid, 0) != nil
	}
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("ip netns list: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 && gone(f[0]) {
			if err := ip("netns", "del", f[0]); err != nil {
				return err
			}
		}
	}
	if out, err = exec.Command("ip", "-o", "link", "show", "type", "bridge").Output(); err != nil {
		return fmt.Errorf("ip link show: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && gone(strings.TrimSuffix(f[1], ":")) {
			if err := ip("link", "del", strings.TrimSuffix(f[1], ":")); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *network) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Error(err)
	}
}

// add makes a host.
func (n *network) add() *host {
	n.t.Helper()
	n.hosts++
	h := &host{net: n, namespace: fmt.Sprintf("%sh%d", n.bridge, n.hosts), address: fmt.Sprintf("%s.%d", n.subnet, n.hosts)}
	must := func(args ...string) {
		n.t.Helper()
		if err := ip(args...); err != nil {
			n.t.Fatal(err)
		}
	}
	must("netns", "add", h.namespace)
	n.t.Cleanup(func() { n.check(ip("netns", "del", h.namespace)) }) // and with it the link
	must("link", "add", h.namespace, "type", "veth", "peer", "name", "eth0", "netns", h.namespace)
	must("link", "set", h.namespace, "master", n.bridge)
	must("link", "set", h.namespace, "up")
	must("-n", h.namespace, "addr", "add", h.address+"/24", "dev", "eth0")
	must("-n", h.namespace, "link", "set", "eth0", "up")
	must("-n", h.namespace, "link", "set", "lo", "up")
	return h
}

// cut takes the host's link down, heal brings it back.
func (h *host) cut()  { h.net.check(ip("link", "set", h.namespace, "down")) }
func (h *host) heal() { h.net.check(ip("link", "set", h.namespace, "up")) }
