package protocol

import (
	"errors"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAndPresetsAreValid(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for _, p := range Presets() {
		c, err := PresetConfig(p.Name)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			t.Errorf("preset %s: %v", p.Name, err)
		}
		if !strings.HasSuffix(p.Doc, ".") {
			t.Errorf("preset %s says %q of itself, which is no sentence", p.Name, p.Doc)
		}
	}
	small, _ := PresetConfig("small")
	if !reflect.DeepEqual(small, DefaultConfig()) {
		t.Error("the preset small is not the documented defaults")
	}
	if _, err := PresetConfig("large"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "debug, small, 1m") {
		t.Errorf("an unknown preset: %v", err)
	}
}

func TestPresetFilesAreListed(t *testing.T) {
	files, err := os.ReadDir("presets")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(presetOrder) {
		t.Errorf("%d files in presets/, %d presets listed", len(files), len(presetOrder))
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	for _, s := range Reference() {
		if s.Doc == "" {
			t.Errorf("section %q has no comment", s.Name)
		}
		for _, k := range s.Keys {
			if !strings.HasSuffix(k.Doc, ".") {
				t.Errorf("%s is documented by %q, which is no sentence", k.Name, k.Doc)
			}
		}
	}
}

func TestConfigLayers(t *testing.T) {
	c, err := PresetConfig("debug")
	if err != nil {
		t.Fatal(err)
	}
	file := "# a comment\nlearner:\n  batch_size: 6\n  train_ratio: 16\nbudget: {duration: 1h30m, steps: 1_000}\nenv:\n"
	if err := c.Merge("run.yaml", []byte(file)); err != nil {
		t.Fatal(err)
	}
	c.MergeEnvironment(func(name string) (string, bool) {
		v, ok := map[string]string{"DREAMFLEET_NATS_URL": "nats://bus:4222", "DREAMFLEET_LEARNER_BATCH_SIZE": "7"}[name]
		return v, ok
	})
	for _, set := range []string{
		"learner.batch_size=32", "env.tasks.servers=[4,10]", "env.load_scales=[50, 1e3]", "model.latent=gaussian",
		"env.hide_rates=true", "learner.entropy=1e-3", "budget.steps=2e6", "run=", "env.tasks={size_drift: [1, 2]}",
	} {
		if err := c.Set(set); err != nil {
			t.Fatal(err)
		}
	}
	want, _ := PresetConfig("debug")
	want.Learner.BatchSize, want.Learner.TrainRatio, want.Learner.Entropy = 32, 16, 1e-3
	want.Budget = BudgetSection{Steps: 2_000_000, Duration: 90 * time.Minute}
	want.Env.Tasks.Servers, want.Env.Tasks.SizeDrift = [2]int{4, 10}, [2]float64{1, 2}
	want.Env.LoadScales, want.Env.HideRates = []float64{50, 1000}, true
	want.Model.Latent, want.Bus.URL = "gaussian", "nats://bus:4222"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestConfigFaultsNameKeyFileAndLine(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"learner:\n  batch_siz: 3\n", "run.yaml:2: unknown key learner.batch_siz; did you mean learner.batch_size?"},
		{"model:\n  batch_size: 3\n", "run.yaml:2: unknown key model.batch_size; did you mean learner.batch_size?"},
		{"batch_size: 3\n", "did you mean learner.batch_size?"},
		{"learnr:\n  batch_size: 3\n", "run.yaml:1: unknown key learnr; did you mean learner?"},
		{"zebra: 3\n", "run.yaml:1: unknown key zebra; `dreamfleet config --reference` lists the keys"},
		{"model:\n  deter: 1.5\n", "run.yaml:2: model.deter: want a whole number, not 1.5"},
		{"model:\n  deter: wide\n", `run.yaml:2: model.deter: want a whole number, not "wide"`},
		{"model:\n  deter:\n", "run.yaml:2: model.deter: want a whole number, not nothing"},
		{"model: {deter: 99999999999999999999}\n", "model.deter: want a whole number, not 99999999999999999999"},
		{"seed: -1\n", "seed: want a whole number, not -1"},
		{"lockstep: 1\n", "lockstep: want true or false, not 1"},
		{"budget: {duration: 20}\n", "budget.duration: want a duration such as 20m or 1h30m, not 20"},
		{"env: {service_rates: 1}\n", "env.service_rates: want a list of numbers, not 1"},
		{"env: {load_scales: [1, x]}\n", `env.load_scales: want a number in place of 2, not [1, "x"]`},
		{"env: {tasks: {outage: [1]}}\n", "env.tasks.outage: want a range [low, high], not [1]"},
		{"env: {tasks: {servers: [1.5, 2]}}\n", "env.tasks.servers: want a whole number in place of 1"},
		{"env: [1]\n", "run.yaml:1: env holds keys and values, such as"},
		{"- 1\n", "run.yaml:1: the file holds keys and values, such as"},
		{"seed: 1\nseed: 2\n", "seed is given twice"},
		{"env:\n  reward: {a: b}\n", "env.reward: want text, not keys and values"},
		{"seed: 1\n---\nseed: 2\n", "more than one YAML document"},
		{"seed: [\n", "run.yaml: line 1:"},
	} {
		c := DefaultConfig()
		err := c.Merge("run.yaml", []byte(test.text))
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q:\n got %v\nwant %s", test.text, err, test.want)
		}
		if !reflect.DeepEqual(c, DefaultConfig()) {
			t.Errorf("%q changed the configuration that it does not fit", test.text)
		}
	}
	c := DefaultConfig()
	err := c.Merge("run.yaml", []byte("sed: 1\nmodel: {deter: x}\n"))
	if err == nil || strings.Count(err.Error(), "run.yaml:") != 2 {
		t.Errorf("two faults are not reported together: %v", err)
	}
	if err := c.Set("learner.batch_siz=1"); err == nil || !strings.Contains(err.Error(), "--set learner.batch_siz=1: unknown key learner.batch_siz; did you mean learner.batch_size?") {
		t.Errorf("--set of an unknown key: %v", err)
	}
	if err := c.Set("learner.batch_size"); err == nil || !strings.Contains(err.Error(), "want key=value") {
		t.Errorf("--set without a value: %v", err)
	}
	if err := c.Merge("big.yaml", make([]byte, MaxConfigBytes+1)); !errors.Is(err, ErrConfig) {
		t.Errorf("an oversized file: %v", err)
	}
}

func TestMergeSharesNothing(t *testing.T) {
	before := DefaultConfig()
	after := before
	if err := after.Set("env.service_rates=[9,9,9,9,9,9,9,9,9,9]"); err != nil {
		t.Fatal(err)
	}
	if before.Env.ServiceRates[0] != 0.15 {
		t.Error("a copy's list was written into")
	}
}

// Each value below breaks one rule, and the message names the key.
func TestValidateNamesTheKey(t *testing.T) {
	for _, set := range []string{
		"run=a.b", "run=abcdefghijklmnopqrstuvwxyz0123456", "budget.steps=-1", "budget.duration=-1s",
		"env.job_interval=0", "env.job_size_shape=0", "env.job_size_scale=.nan", "env.servers=1",
		"env.service_rates=[1,2]", "env.episode_jobs=1", "env.reward=none", "env.reward_scale=0", "env.load_scales=[]",
		"env.episodes_per_trial=0", "env.tasks.job_interval=[3,2]", "env.tasks.servers=[4,11]", "env.tasks.interval_drift=[0,1]", "env.tasks.size_drift=[2,1]", "env.tasks.rate_scale=[-1,1]",
		"env.tasks.slow=[0,11]", "env.tasks.slow_factor=[0,1]", "env.tasks.fail=[1,10]", "env.tasks.outage=[0.5,1.5]", "env.tasks.join=[-1,1]", "env.tail_start=-1",
		"env.workload.kind=uniform", "env.workload.file=x.csv", "env.workload.load=-1", "env.workload.burst=0.5", "env.workload.period=-1", "env.workload.unit=0", "env.workload.filter=x",
		"model.deter=0", "model.hidden=0", "model.stoch=0", "model.classes=1", "model.latent=binary", "model.units=70000",
		"model.layers=0", "model.blocks=7", "model.bins=254", "model.policy=lstm", "model.policy_units=0",
		"learner.batch_size=0", "learner.batch_length=1", "learner.batch_length=2000", "learner.train_ratio=0", "learner.prefill=10",
		"learner.actor_start=-1", "learner.horizon=0.5", "learner.imagine_length=0", "learner.imagine_last=33", "learner.imagine_last=1", "learner.imagine_group=0", "learner.threads=-1", "learner.lambda=1.1",
		"learner.entropy=-1", "learner.advantage_scale=none", "learner.lr_half_life=-1", "learner.model_lr=0", "learner.actor_lr=.inf", "learner.critic_lr=0", "learner.warmup=-1", "learner.agc=-1",
		"learner.free_nats=-1", "learner.unimix=1", "learner.slow_rate=2", "learner.replay_value=-1", "learner.reconstruction=-1",
		"learner.return_rate=2", "learner.publish_every=0", "learner.params_encoding=float16", "learner.checkpoint_every=0", "learner.keep_checkpoints=0", "learner.max_skipped=0",
		"actor.count=0", "actor.envs=0", "actor.chunk_length=1", "actor.context_stride=65", "actor.spool=0",
		"replay.capacity=3000", "replay.slack=0", "replay.half_life=0", "replay.sampler.uniform=1.1", "replay.sampler.recency=0.6",
		"evaluate.every=-1", "evaluate.seeds=9-1", "evaluate.jobs=1", "bus.store_bytes=1", "bus.max_age=0", "log.level=loud", "log.every=0",
	} {
		c := DefaultConfig()
		if err := c.Set(set); err != nil {
			t.Errorf("%s: %v", set, err)
			continue
		}
		key, _, _ := strings.Cut(set, "=")
		if key == "replay.sampler.recency" {
			key = "the sum of replay.sampler"
		}
		err := c.Validate()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), key+" is ") {
			t.Errorf("%s: %v", set, err)
		}
	}
	c := DefaultConfig()
	c.Env.HideRates, c.Env.ObserveRates = true, true
	c.Env.Workload.Kind = "csv"
	err := c.Validate()
	if err == nil || !strings.Contains(err.Error(), "env.observe_rates is true") || !strings.Contains(err.Error(), `env.workload.file is ""`) {
		t.Errorf("rules between keys: %v", err)
	}
}

func TestConfigIsReadBackIdentically(t *testing.T) {
	for _, p := range Presets() {
		c, err := PresetConfig(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		c.Run, c.Seed = "007", math.MaxUint64
		c.Learner.Entropy, c.Env.RewardScale = 1.0/3, 1e-21
		c.Env.ServiceRates = []float64{}
		text, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeConfig("config.yaml", text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if !reflect.DeepEqual(back, c) {
			t.Errorf("preset %s\nwrote %+v\nread  %+v", p.Name, c, back)
		}
	}
	if old, err := DecodeConfig("config.yaml", []byte("model: {deter: 64}")); err != nil || old.Model.Prior != "independent" {
		t.Errorf("a run from before there was a choice has the prior %q (%v)", old.Model.Prior, err)
	}
	if _, err := DecodeConfig("config.yaml", []byte("model: {deter: 3, blocks: 2}")); err == nil || !strings.Contains(err.Error(), "config.yaml: configuration: model.blocks") {
		t.Errorf("an invalid saved configuration: %v", err)
	}
}

func TestEncodeLeavesOutSecrets(t *testing.T) {
	c := DefaultConfig()
	c.Bus.URL = "nats://user:p@ss@a:4222,tls://token@b:4222,nats://c:4222,d:4222"
	text, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := "url: nats://a:4222,tls://b:4222,nats://c:4222,d:4222\n"; !strings.Contains(string(text), want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}

func TestCompatible(t *testing.T) {
	saved := DefaultConfig()
	saved.Model.Deter, saved.Env.LoadScales = 256, []float64{100, 5000}
	now := saved
	for _, set := range []string{"budget.steps=1", "budget.duration=0", "evaluate.every=1", "log.level=debug", "learner.publish_every=3", "bus.url=a"} {
		if err := now.Set(set); err != nil {
			t.Fatal(err)
		}
	}
	if d := Compatible(saved, now); len(d) > 0 {
		t.Errorf("refused what may change: %v", d)
	}
	for _, set := range []string{"model.deter=512", "env.load_scales=[1]", "seed=1"} {
		if err := now.Set(set); err != nil {
			t.Fatal(err)
		}
	}
	want := []Difference{{"seed", "0", "1", false}, {"env.load_scales", "[100, 5000]", "[1]", false}, {"model.deter", "256", "512", false}}
	d := Compatible(saved, now)
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got %v, want %v", d, want)
	}
	if got := d[2].String(); got != "model.deter: 256 -> 512" {
		t.Errorf("shown as %q", got)
	}
}

func TestParseSeeds(t *testing.T) {
	got, err := ParseSeeds("1, 5,7-9,4294967295")
	if err != nil || !reflect.DeepEqual(got, []uint64{1, 5, 7, 8, 9, 4294967295}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"", "x", "1-", "-1", "3-2", "4294967296", "0-100000", "0-4294967295,1"} {
		if got, err := ParseSeeds(text); err == nil {
			t.Errorf("%q gave %d seeds", text, len(got))
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"batch_siz", "batch_size", 1}} {
		if got := editDistance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

// Whatever the text, Merge gives a configuration or an error, and what Validate accepts is written
// and read back.
func FuzzConfig(f *testing.F) {
	for _, name := range presetOrder {
		document, err := presetFiles.ReadFile("presets/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	f.Add([]byte("a: &a [*a]\nenv: {load_scales: *a}\n"))
	f.Add([]byte("? {a: b}\n: c\n? [x]\n: {}\n<<: 1\n"))
	f.Add([]byte("run: !!binary AAAA\nseed: 0x10\nmodel: !!str x\nlog: {level: \"\\0\"}"))
	f.Fuzz(func(t *testing.T, document []byte) {
		c := DefaultConfig()
		if c.Merge("fuzz", document) != nil || c.Validate() != nil {
			return
		}
		text, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeConfig("fuzz", text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		again, err := back.Encode()
		if err != nil || string(again) != string(text) {
			t.Fatalf("%v: wrote\n%s\nthen\n%s", err, text, again)
		}
	})
}
