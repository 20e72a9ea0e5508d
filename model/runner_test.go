package model

import (
	"slices"
	"strings"
	"testing"
)

// Modules tile the parameters in a fixed order, names are unique, and each
// tensor's shape fits its data.
func TestParamsLayout(t *testing.T) {
	for name, c := range variants() {
		c.Layers = 11 // more than a digit
		p, err := NewParams(c)
		if err != nil {
			t.Fatal(err)
		}
		var modules []string
		seen := map[string]bool{}
		total := 0
		for _, m := range p.Modules {
			modules = append(modules, m.Name)
			size := 0
			for _, x := range m.Tensors {
				n := 1
				for _, d := range x.Shape {
					n *= d
				}
				if n != len(x.Data) || n == 0 {
					t.Errorf("%s: %s has shape %v and %d values", name, x.Name, x.Shape, len(x.Data))
				}
				if seen[x.Name] || !strings.HasPrefix(x.Name, m.Name+"/") {
					t.Errorf("%s: bad name %s", name, x.Name)
				}
				seen[x.Name] = true
				size += n
			}
			if size != len(m.Data) {
				t.Errorf("%s: tensors of %s have %d values of %d", name, m.Name, size, len(m.Data))
			}
			total += size
		}
		if total != len(p.Data) || !slices.Equal(modules, []string{Encoder, RSSM, Prior, Actor, Decoder, Reward, Continue, Critic}) {
			t.Errorf("%s: modules %v of %d values in %d", name, modules, total, len(p.Data))
		}
		if !seen["critic/layer10/kernel"] || seen["actor/gru_reset/kernel"] != c.Recurrent {
			t.Errorf("%s: the eleventh layer or the policy's GRU is not named as documented", name)
		}
		p.Data[0] = 3
		if p.Modules[0].Tensors[0].Data[0] != 3 {
			t.Errorf("%s: tensors do not share the parameters' memory", name)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if err := testConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(c *Config){
		"obs":                            func(c *Config) { c.Obs = 0 },
		"deter 8 is not divisible":       func(c *Config) { c.Blocks = 3 },
		"classes is 1":                   func(c *Config) { c.Classes = 1 },
		"actions is 1":                   func(c *Config) { c.Actions = 1 },
		"bins is 4":                      func(c *Config) { c.Bins = 4 },
		"unimix is 1":                    func(c *Config) { c.Unimix = 1 },
		"policy_units is -1":             func(c *Config) { c.PolicyUnits = -1 },
		"hidden is 100000; it must be b": func(c *Config) { c.Hidden = 100000 },
	} {
		c := testConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if _, err := NewParams(c); err == nil {
			t.Errorf("parameters of a configuration where %s", want)
		}
	}
	single := testConfig()
	single.Classes, single.Gaussian = 1, true
	if err := single.Validate(); err != nil {
		t.Errorf("a Gaussian with one dimension a latent: %v", err)
	}
}
