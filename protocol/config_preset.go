package protocol

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"
)

// A preset is a few lines of YAML over the defaults; its first comment says what it is for.
//
//go:embed presets/*.yaml
var presetFiles embed.FS

// presetOrder lists the presets from the smallest, those of the baseline last.
var presetOrder = []string{"debug", "small", "1m", "12m", "50m", "a2c", "a2c_gru"}

// PresetConfig returns the configuration of a named preset, not validated, for others to be laid
// over it.
func PresetConfig(name string) (Config, error) {
	if !slices.Contains(presetOrder, name) {
		return Config{}, fmt.Errorf("%w: unknown preset %q; want one of %s", ErrConfig, name, strings.Join(presetOrder, ", "))
	}
	document, err := presetFiles.ReadFile(path.Join("presets", name+".yaml"))
	if err != nil {
		return Config{}, fmt.Errorf("preset %s: %w", name, err)
	}
	c := DefaultConfig()
	return c, c.Merge("preset "+name, document)
}

// Preset is a name and what it is for.
type Preset struct{ Name, Doc string }

// Presets lists the presets in their order.
func Presets() []Preset {
	presets := make([]Preset, len(presetOrder))
	for i, name := range presetOrder {
		document, err := presetFiles.ReadFile(path.Join("presets", name+".yaml"))
		if err != nil {
			panic(err) // it is embedded
		}
		var doc []string
		for line := range strings.Lines(string(document)) {
			text, ok := strings.CutPrefix(line, "#")
			if !ok {
				break
			}
			doc = append(doc, strings.TrimSpace(text))
		}
		presets[i] = Preset{name, strings.Join(doc, " ")}
	}
	return presets
}
