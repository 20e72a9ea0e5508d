package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxConfigBytes bounds a configuration read from a file or the bus; a full one has 3 KB.
const MaxConfigBytes = 1 << 18

// maxConfigFaults is more than anybody reads.
const maxConfigFaults = 20

// ErrConfig is the cause of every error about a configuration's text or values.
var ErrConfig = errors.New("configuration")

// Merge lays the keys of a YAML document over the configuration. The name of its source, with the
// line, begins every message. All faults are reported together, and none leaves c changed.
func (c *Config) Merge(source string, document []byte) error {
	if len(document) > MaxConfigBytes {
		return fmt.Errorf("%w: %s has %d bytes, more than %d", ErrConfig, source, len(document), MaxConfigBytes)
	}
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	if err := decoder.Decode(&root); err == io.EOF {
		return nil // an empty file changes nothing
	} else if err != nil {
		return fmt.Errorf("%w: %s: %s", ErrConfig, source, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(new(yaml.Node)); err != io.EOF {
		return fmt.Errorf("%w: %s holds more than one YAML document", ErrConfig, source)
	}
	m := newMerger(c, source)
	m.section("", root.Content[0])
	return m.finish(c)
}

// Set applies one assignment, such as learner.batch_size=32 or env.tasks.servers=[4,10]; the
// value is YAML.
func (c *Config) Set(assignment string) error {
	name, text, ok := strings.Cut(assignment, "=")
	if !ok {
		return fmt.Errorf("%w: --set %s: want key=value", ErrConfig, assignment)
	}
	m := newMerger(c, "--set "+assignment)
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle} // key= sets the empty text
	if text != "" {
		var root yaml.Node
		if err := yaml.Unmarshal([]byte(text), &root); err != nil || len(root.Content) == 0 {
			return fmt.Errorf("%w: --set %s: the value is not YAML", ErrConfig, assignment)
		}
		value = root.Content[0]
	}
	value.Line = 0 // a command line has none
	m.key(name, 0, value)
	return m.finish(c)
}

// The environment sets nothing but addresses and secrets, which do not belong in a run's file.
var environmentKeys = map[string]string{
	"DREAMFLEET_NATS_URL":   "bus.url",
	"DREAMFLEET_NATS_CREDS": "bus.creds",
}

// MergeEnvironment lays the addresses and secrets of the environment over the configuration;
// lookup is os.LookupEnv.
func (c *Config) MergeEnvironment(lookup func(string) (string, bool)) {
	for variable, name := range environmentKeys {
		if text, ok := lookup(variable); ok {
			for _, f := range c.fields() {
				if f.name == name {
					f.value.SetString(text)
				}
			}
		}
	}
}

// merger assigns values to a copy of a configuration and collects what is wrong.
type merger struct {
	source string
	next   Config
	fields map[string]configField
	seen   map[string]bool
	faults []string
}

func newMerger(c *Config, source string) *merger {
	m := &merger{source: source, next: *c, fields: make(map[string]configField), seen: make(map[string]bool)}
	for _, f := range m.next.fields() {
		m.fields[f.name] = f
	}
	return m
}

func (m *merger) finish(c *Config) error {
	if len(m.faults) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(m.faults, "\n"))
	}
	*c = m.next
	return nil
}

func (m *merger) fault(line int, format string, args ...any) {
	where := m.source
	if line > 0 {
		where += ":" + strconv.Itoa(line)
	}
	m.faults = append(m.faults, where+": "+fmt.Sprintf(format, args...))
}

// section assigns a mapping whose keys lie below name.
func (m *merger) section(name string, node *yaml.Node) {
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return // a section with everything commented out
	}
	if node.Kind != yaml.MappingNode {
		what := "the file"
		if name != "" {
			what = name
		}
		m.fault(node.Line, "%s holds keys and values, such as %s", what, m.example(name))
		return
	}
	for i := 0; i < len(node.Content); i += 2 {
		key := node.Content[i].Value
		if name != "" {
			key = name + "." + key
		}
		m.key(key, node.Content[i].Line, node.Content[i+1])
	}
}

// key assigns the value of one key, or of a whole section.
func (m *merger) key(name string, line int, node *yaml.Node) {
	if len(m.faults) == maxConfigFaults {
		return
	}
	if m.seen[name] {
		m.fault(line, "%s is given twice", name)
		return
	}
	m.seen[name] = true
	if f, ok := m.fields[name]; ok {
		if want := assign(f.value, node); want != "" {
			m.fault(node.Line, "%s: want %s, not %s", name, want, describe(node))
		}
		return
	}
	if m.isSection(name) {
		m.section(name, node)
		return
	}
	if s := m.suggest(name); s != "" {
		m.fault(line, "unknown key %s; did you mean %s?", shorten(name), s)
	} else {
		m.fault(line, "unknown key %s; `dreamfleet config --reference` lists the keys", shorten(name))
	}
}

func (m *merger) isSection(name string) bool {
	for known := range m.fields {
		if strings.HasPrefix(known, name+".") {
			return true
		}
	}
	return false
}

// example gives a key of a section.
func (m *merger) example(section string) string {
	var below []string
	for name := range m.fields {
		if strings.HasPrefix(name, section+".") || section == "" {
			below = append(below, name)
		}
	}
	first := slices.Min(below)
	return fmt.Sprintf("%s: %s", first[strings.LastIndex(first, ".")+1:], formatValue(m.fields[first].value))
}

// suggest finds the key or section nearest to a wrong name: by spelling, or the same last word in
// another section.
func (m *merger) suggest(wrong string) string {
	if len(wrong) > 60 {
		return "" // no key is half as long
	}
	names := slices.Collect(maps.Keys(m.fields))
	for _, name := range slices.Clone(names) {
		for i := strings.LastIndex(name, "."); i > 0; i = strings.LastIndex(name[:i], ".") {
			names = append(names, name[:i])
		}
	}
	slices.Sort(names) // ties are broken the same way every time
	last := func(name string) string { return name[strings.LastIndex(name, ".")+1:] }
	best, least := "", math.MaxInt
	for _, name := range slices.Compact(names) {
		d := editDistance(wrong, name)
		if elsewhere := 1 + editDistance(last(wrong), last(name)); elsewhere < d {
			d = elsewhere
		}
		if d < least {
			best, least = name, d
		}
	}
	if least > 1+len(last(wrong))/3 {
		return ""
	}
	return best
}

// editDistance counts the insertions, deletions and replacements that turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// assign sets a field from a YAML value of its type, or says what it wants instead. The library's
// own conversions are too kind: 1.5 becomes the integer 1, and 20 becomes 20 nanoseconds.
func assign(dst reflect.Value, node *yaml.Node) (want string) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch {
	case dst.Type() == durationType:
		d, err := time.ParseDuration(node.Value)
		if err != nil || node.Kind != yaml.ScalarNode {
			return "a duration such as 20m or 1h30m"
		}
		dst.SetInt(int64(d))
	case dst.Kind() == reflect.Array:
		if node.Kind != yaml.SequenceNode || len(node.Content) != dst.Len() {
			return "a range [low, high]"
		}
		return assignItems(dst, node)
	case dst.Kind() == reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			return "a list of numbers"
		}
		// A slice of its own: the merged copy must not share one with the original.
		list := reflect.MakeSlice(dst.Type(), len(node.Content), len(node.Content))
		if want := assignItems(list, node); want != "" {
			return want
		}
		dst.Set(list)
	case node.Kind != yaml.ScalarNode || node.Tag == "!!null":
		return article(typeName(dst.Type()))
	case dst.Kind() == reflect.String:
		dst.SetString(node.Value)
	case dst.Kind() == reflect.Float64:
		if node.Tag != "!!int" && node.Tag != "!!float" || node.Decode(dst.Addr().Interface()) != nil {
			return "a number"
		}
	case dst.Kind() == reflect.Bool:
		if node.Tag != "!!bool" || node.Decode(dst.Addr().Interface()) != nil {
			return "true or false"
		}
	default:
		var f float64
		if node.Tag == "!!float" && (node.Decode(&f) != nil || f != math.Trunc(f)) ||
			node.Tag != "!!float" && node.Tag != "!!int" ||
			node.Decode(dst.Addr().Interface()) != nil {
			return "a whole number"
		}
	}
	return ""
}

func assignItems(dst reflect.Value, node *yaml.Node) (want string) {
	for i, item := range node.Content {
		if want := assign(dst.Index(i), item); want != "" {
			return want + " in place of " + strconv.Itoa(i+1)
		}
	}
	return ""
}

func article(noun string) string {
	if noun == "text" || noun == "true or false" {
		return noun
	}
	return "a " + noun
}

// describe shows a wrong value, cut to a length that fits a line.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		items := make([]string, 0, len(node.Content))
		for _, item := range node.Content {
			items = append(items, describe(item))
		}
		return shorten("[" + strings.Join(items, ", ") + "]")
	case yaml.AliasNode:
		return "an alias"
	}
	if node.Tag == "!!null" {
		return "nothing"
	}
	if node.Tag == "!!str" {
		return shorten(strconv.Quote(node.Value))
	}
	return shorten(node.Value)
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
