package deploy

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Scale changes how many actors hosts have, in the inventory and in its file, of which it touches
// nothing but these numbers: the file goes on to say what runs. Each change is HOST=N. It returns the
// hosts; on a dry run the file stays as it is.
func (v *Inventory) Scale(changes []string, dryRun bool) ([]string, error) {
	var names []string
	counts := map[string]int{}
	for _, change := range changes {
		name, text, _ := strings.Cut(change, "=")
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxActors {
			return nil, fmt.Errorf("%w: %q: want HOST=N with N from 0 to %d", ErrInventory, change, maxActors)
		}
		if !slices.Contains(v.names(), name) {
			return nil, fmt.Errorf("%w: %q: no host is named %s; the hosts are %s", ErrInventory, change, name, strings.Join(v.names(), ", "))
		}
		if _, ok := counts[name]; ok {
			return nil, fmt.Errorf("%w: host %s is given twice", ErrInventory, name)
		}
		counts[name] = n
		names = append(names, name)
	}
	document, err := readBounded(v.path, maxInventory)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	scaled, err := scaled(document, counts)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInventory, v.path, err)
	}
	for i, h := range v.Hosts {
		if n, ok := counts[h.Name]; ok {
			v.Hosts[i].Actors = n
		}
	}
	if dryRun || bytes.Equal(scaled, document) {
		return names, nil
	}
	info, err := os.Stat(v.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	if err := os.WriteFile(v.path+".new", scaled, info.Mode().Perm()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	if err := os.Rename(v.path+".new", v.path); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	return names, nil
}

// scaled replaces the numbers of actors in a document.
func scaled(document []byte, counts map[string]int) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(document, &root); err != nil {
		return nil, err
	}
	hosts := child(root.Content[0], "hosts")
	if hosts == nil {
		return nil, fmt.Errorf("it has no hosts")
	}
	type edit struct {
		line, column int
		old          string
		n            int
	}
	var edits []edit
	for _, host := range hosts.Content {
		name := child(host, "name")
		if name == nil {
			continue
		}
		n, ok := counts[name.Value]
		if !ok {
			continue
		}
		actors := child(host, "actors")
		if actors == nil || actors.Kind != yaml.ScalarNode || actors.Style != 0 {
			return nil, fmt.Errorf("host %s has no plain number of actors to change: give it actors: %d", name.Value, n)
		}
		edits = append(edits, edit{actors.Line, actors.Column, actors.Value, n})
	}
	// From the end, so that places stay true.
	slices.SortFunc(edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(b.line, a.line), cmp.Compare(b.column, a.column))
	})
	lines := bytes.SplitAfter(document, []byte("\n"))
	for _, e := range edits {
		line := string(lines[e.line-1])
		runes := []rune(line) // a column counts characters
		before, after := string(runes[:e.column-1]), string(runes[e.column-1:])
		rest, ok := strings.CutPrefix(after, e.old)
		if !ok {
			return nil, fmt.Errorf("line %d: the number of actors is not where it should be: edit it by hand", e.line)
		}
		lines[e.line-1] = []byte(before + strconv.Itoa(e.n) + rest)
	}
	return bytes.Join(lines, nil), nil
}

func child(node *yaml.Node, key string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}
