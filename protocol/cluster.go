package protocol

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// Cluster describes NATS servers that make up one, or a single one, and what lets
// roles into it.
type Cluster struct {
	Dir     string   // where the files go; the folder of the authority's key, so keep it
	Name    string   // of the cluster, see ValidName
	Hosts   []string // HOST or HOST:PORT of each server, as the roles and each other reach it; 1, 3 or another odd number
	Install string   // where a server's folder will lie on its host; empty: where it is written
	Keys    []string // further keys to make beside each role's: ROLE-LABEL, actor@RUN

	Now time.Time // which certificates are valid from, and judged at
}

// Node is one server of a cluster.
type Node struct {
	Name, Host  string
	Port        int
	Dir         string // its files: nats-server.conf, server.pem, server.key, ca.pem
	Certificate string // "new", "renewed" or "kept"
}

// ClusterFiles is what Init has written, beside ca.pem and ca.key.
type ClusterFiles struct {
	Nodes []Node
	Keys  []string // paths, to be given to processes of the role that each is named after
}

const (
	// defaultPort is where clients connect unless said otherwise. Servers reach each
	// other 2000 above, by convention at 6222.
	defaultPort = 4222
	routeOffset = 2000
	// keysDir is the subfolder of the key files.
	keysDir = "keys"
)

// URL is what clients are given: the servers' addresses.
func (f *ClusterFiles) URL() string {
	var all []string
	for _, n := range f.Nodes {
		all = append(all, "tls://"+address(n.Host, n.Port))
	}
	return strings.Join(all, ",")
}

// Init writes a folder for each server, with its configuration and certificate, and
// key files for the roles. Keys and certificates that are there already stay as they
// are, but for certificates that end within a third of their life or are for another
// host, so that it may be called again: with more hosts, further keys, or later. A
// key file holds the authority's certificate too and is all that a process needs.
func (c Cluster) Init() (*ClusterFiles, error) {
	nodes, err := c.nodes()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := openAuthority(c.Dir, c.Name, c.Now)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	users, err := openKeys(filepath.Join(c.Dir, keysDir), c.Keys...)
	if err != nil {
		return nil, err
	}
	files := &ClusterFiles{Nodes: nodes}
	for _, u := range users {
		if err := trust(u.path, ca.pem); err != nil {
			return nil, fmt.Errorf("key file %s: %w", u.path, err)
		}
		files.Keys = append(files.Keys, u.path)
	}
	for i := range nodes {
		n := &nodes[i]
		if err := os.MkdirAll(n.Dir, 0o700); err != nil {
			return nil, err
		}
		if n.Certificate, err = ca.certify(n.Dir, n.Host, c.Now); err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", n.Host, err)
		}
		conf, err := c.configuration(n, nodes, users)
		if err == nil {
			err = errors.Join(
				writeIfChanged(filepath.Join(n.Dir, "ca.pem"), ca.pem),
				writeIfChanged(filepath.Join(n.Dir, "nats-server.conf"), conf))
		}
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// nodes checks the settings.
func (c Cluster) nodes() ([]Node, error) {
	if err := checkName("name of the cluster", c.Name); err != nil {
		return nil, err
	}
	if len(c.Hosts)%2 == 0 {
		return nil, fmt.Errorf("%d hosts: a cluster goes on as long as more than half of its servers do, so give an odd number, 3 for most", len(c.Hosts))
	}
	var nodes []Node
	taken := map[string]string{keysDir: "the keys' folder"}
	for _, given := range c.Hosts {
		n := Node{Host: given, Port: defaultPort}
		if host, port, err := net.SplitHostPort(given); err == nil {
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil || number == 0 || number > 65535-routeOffset {
				return nil, fmt.Errorf("host %q: its port is a number from 1 to %d", given, 65535-routeOffset)
			}
			n.Host, n.Port = host, int(number)
		}
		n.Host = strings.Trim(n.Host, "[]")
		if !validHost(n.Host) {
			return nil, fmt.Errorf("host %q: give a host name or an IP address, with a port where it is not %d", given, defaultPort)
		}
		n.Name = strings.ReplaceAll(n.Host, ":", "-")
		if n.Port != defaultPort {
			n.Name += "-" + strconv.Itoa(n.Port)
		}
		if other, ok := taken[n.Name]; ok {
			return nil, fmt.Errorf("hosts %s and %s are the same", other, given)
		}
		taken[n.Name] = given
		n.Dir = filepath.Join(c.Dir, n.Name)
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func validHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return len(s) <= 253
}

//go:embed nats-server.conf.tmpl
var serverTemplate string

var serverConf = template.Must(template.New("nats-server.conf").Funcs(template.FuncMap{
	"quote": strconv.Quote, "list": quoteAll, "address": address,
	"route": func(n Node) string { return address(n.Host, n.Port+routeOffset) },
}).Parse(serverTemplate))

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// quoteAll writes strings as a list of the server's configuration language, which
// knows the escapes of Go for what can stand in a path or a subject.
func quoteAll(s []string) string {
	quoted := make([]string, len(s))
	for i := range s {
		quoted[i] = strconv.Quote(s[i])
	}
	return strings.Join(quoted, ", ")
}

// configuration is a server's nats-server.conf. It is written anew each time.
func (c Cluster) configuration(n *Node, nodes []Node, users []user) ([]byte, error) {
	installed := c.Install
	if installed == "" {
		var err error
		if installed, err = filepath.Abs(n.Dir); err != nil {
			return nil, err
		}
	}
	type permitted struct {
		Comment, Key       string
		Publish, Subscribe []string // nil: everything
	}
	var permissions []permitted
	for _, u := range users {
		p := permitted{Comment: filepath.Base(u.path), Key: u.public}
		if allowed := u.permissions(); allowed != nil {
			p.Publish, p.Subscribe = allowed.Publish.Allow, allowed.Subscribe.Allow
		}
		permissions = append(permissions, p)
	}
	listen := "0.0.0.0" // a host's address may be another one than its interface's
	if loopback(n.Host) {
		listen = n.Host
	}
	var b bytes.Buffer
	err := serverConf.Execute(&b, map[string]any{
		"Cluster": c.Name, "Node": n, "Nodes": nodes, "Users": permissions, "Listen": listen,
		"ClientPort": n.Port, "RoutePort": n.Port + routeOffset, "MaxPayload": MaxMessage,
		"CA": filepath.Join(installed, "ca.pem"), "Certificate": filepath.Join(installed, "server.pem"),
		"CertificateKey": filepath.Join(installed, "server.key"), "Store": filepath.Join(installed, "store"),
	})
	return b.Bytes(), err
}

// trust puts the authority's certificate behind the seed in a key file.
func trust(path string, ca []byte) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	seed, _, _ := bytes.Cut(content, []byte("-----BEGIN CERTIFICATE-----"))
	return writeIfChanged(path, append(append(bytes.TrimSpace(seed), '\n'), ca...))
}

// writeIfChanged replaces a file that only its owner may read, whole or not at all.
func writeIfChanged(path string, content []byte) error {
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, content) {
		return os.Chmod(path, 0o600)
	}
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
