package protocol

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Encode writes every key as YAML, for the run folder and for the bus. Users and passwords in
// bus.url are left out: each process has its own from its environment.
func (c *Config) Encode() ([]byte, error) {
	saved := *c
	saved.Bus.URL = withoutUser(c.Bus.URL)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(saved); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return out.Bytes(), nil
}

// DecodeConfig reads what Encode has written and checks it; source names it in messages. Keys
// that an older version did not know have what it did without them, which is their default but for
// model.prior.
func DecodeConfig(source string, document []byte) (Config, error) {
	c := DefaultConfig()
	c.Model.Prior = "independent"
	if err := c.Merge(source, document); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", source, err)
	}
	return c, nil
}

// withoutUser removes user:password@ from each address of a list.
func withoutUser(urls string) string {
	list := strings.Split(urls, ",")
	for i, u := range list {
		scheme, rest, ok := strings.Cut(u, "://")
		if !ok {
			scheme, rest = "", u
		}
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			rest = rest[at+1:]
		}
		if ok {
			rest = scheme + "://" + rest
		}
		list[i] = rest
	}
	return strings.Join(list, ",")
}

// Difference is a key whose values differ. It keeps a run from being resumed unless it is free.
type Difference struct {
	Key, Saved, Now string
	Free            bool
}

func (d Difference) String() string { return d.Key + ": " + d.Saved + " -> " + d.Now }

// Compatible lists the keys in which now differs from the saved configuration of a run and which
// belong to a run for life; none means that the run can be resumed.
func Compatible(saved, now Config) []Difference {
	return slices.DeleteFunc(Differences(saved, now), func(d Difference) bool { return d.Free })
}

// Differences lists the keys in which two configurations differ.
func Differences(saved, now Config) []Difference {
	var differences []Difference
	after := now.fields()
	for i, before := range saved.fields() {
		s, n := formatValue(before.value), formatValue(after[i].value)
		if s != n {
			differences = append(differences, Difference{before.name, s, n, before.resume})
		}
	}
	return differences
}
