package protocol

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
)

// user is an NKey user, whose key has a file of its own. The file's name says what
// it is good for:
//
//	<role>.nk           the role, in any run; what a process of that role is given
//	<role>-<label>.nk   the same by another key, which can be taken back by itself
//	actor@<run>.nk      an actor of this run and of no other; also actor-<label>@<run>.nk
type user struct {
	role   Role
	run    string // empty: any
	path   string // of the key
	public string // its public half, which servers are told
}

const keySuffix = ".nk"

// keyFile is where a role's own key lies in a folder of keys.
func keyFile(dir string, role Role) string { return filepath.Join(dir, string(role)+keySuffix) }

// openKeys reads the keys of a folder, sorted by their paths. Those of the roles, and those named
// further (without ".nk"), are made where they are missing.
func openKeys(dir string, further ...string) ([]user, error) {
	names := further
	for _, role := range Roles {
		names = append(names, string(role))
	}
	for _, name := range names {
		if _, err := parseKeyName(name); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, name+keySuffix)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := createKey(dir, path); err != nil {
				return nil, fmt.Errorf("key %s: %w", name, err)
			}
		}
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*"+keySuffix))
	if err != nil {
		return nil, fmt.Errorf("keys in %s: %w", dir, err)
	}
	slices.Sort(paths)
	var users []user
	for _, path := range paths {
		u, err := parseKeyName(strings.TrimSuffix(filepath.Base(path), keySuffix))
		if err == nil {
			u.path = path
			u.public, err = publicKey(path)
		}
		if err != nil {
			return nil, fmt.Errorf("key file %s: %w", path, err)
		}
		users = append(users, u)
	}
	return users, nil
}

func parseKeyName(name string) (user, error) {
	left, run, restricted := strings.Cut(name, "@")
	role, label, labelled := strings.Cut(left, "-")
	u := user{role: Role(role), run: run}
	switch {
	case !u.role.valid():
		return u, fmt.Errorf("key %q is named after no role: ROLE, ROLE-LABEL or actor@RUN, the roles being %v", name, Roles)
	case labelled && !ValidName(label):
		return u, checkName("label of key "+name, label)
	case restricted && u.role != RoleActor:
		return u, fmt.Errorf("key %q: only an actor's key can be for one run, since the other roles' streams are shared by all runs", name)
	case restricted:
		return u, checkName("run of key "+name, run)
	}
	return u, nil
}

// publicKey is the public half of the seed in a file, which may hold more than that.
func publicKey(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.ParseDecoratedUserNKey(content)
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

func createKey(dir, path string) error {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, append(seed, '\n'), 0o600)
}
