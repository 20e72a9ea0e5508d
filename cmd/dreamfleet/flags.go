package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// configFile is the resolved configuration in a run folder.
const configFile = "config.yaml"

// configFlags are the flags of every command that takes a run's configuration.
type configFlags struct {
	preset, file, run, logLevel string
	sets                        []string
	seed                        uint64
	steps                       int64
	duration                    time.Duration
	lockstep                    bool
}

func (f *configFlags) register(cmd *cobra.Command) {
	var names []string
	for _, p := range protocol.Presets() {
		names = append(names, p.Name)
	}
	flags := cmd.Flags()
	flags.StringVar(&f.preset, "preset", "", "`name` of a preset to start from: "+strings.Join(names, ", ")+" (default: the run folder's own configuration, or else small)")
	flags.StringVar(&f.file, "config", "", "YAML `file` over the preset")
	flags.StringArrayVar(&f.sets, "set", nil, "`key=value` over the file, such as learner.batch_size=32; may be repeated")
	flags.StringVar(&f.run, "run", "", "run `folder`; its last part names the run on the bus (default: runs/ and the preset's name)")
	flags.Uint64Var(&f.seed, "seed", 0, "seed of every random stream")
	flags.Int64Var(&f.steps, "steps", 0, "end after so many environment steps; 0 for no limit")
	flags.DurationVar(&f.duration, "duration", 0, "end after so long, such as 20m; 0 for no limit")
	flags.StringVar(&f.logLevel, "log-level", "", "trace, debug, info, warn or error")
	flags.BoolVar(&f.lockstep, "lockstep", false, "make two runs of one seed give the same bytes, at half of the speed")
	must(cmd.RegisterFlagCompletionFunc("preset", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	must(cmd.MarkFlagDirname("run"))
}

// must is for errors that say that the program itself is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// resolve lays preset or saved configuration, file, environment and flags over one another, checks
// the result and returns it with the run folder.
func (f *configFlags) resolve(cmd *cobra.Command, lookupEnv func(string) (string, bool)) (protocol.Config, string, error) {
	dir := f.folder()
	cfg, err := f.base(dir)
	if err != nil {
		return cfg, dir, err
	}
	if f.file != "" {
		document, err := readConfigFile(f.file)
		if err != nil {
			return cfg, dir, err
		}
		if err := cfg.Merge(f.file, document); err != nil {
			return cfg, dir, err
		}
	}
	cfg.MergeEnvironment(lookupEnv)
	for _, set := range f.sets {
		if err := cfg.Set(set); err != nil {
			return cfg, dir, err
		}
	}
	flags := cmd.Flags()
	if flags.Changed("seed") {
		cfg.Seed = f.seed
	}
	if flags.Changed("steps") {
		cfg.Budget.Steps = f.steps
	}
	if flags.Changed("duration") {
		cfg.Budget.Duration = f.duration
	}
	if flags.Changed("log-level") {
		cfg.Log.Level = f.logLevel
	}
	if flags.Changed("lockstep") {
		cfg.Lockstep = f.lockstep
	}
	if cfg.Run == "" {
		cfg.Run = runName(dir)
	}
	return cfg, dir, cfg.Validate()
}

// folder is the run folder that was asked for.
func (f *configFlags) folder() string {
	switch {
	case f.run != "":
		return filepath.Clean(f.run)
	case f.preset != "":
		return filepath.Join("runs", f.preset)
	case f.file != "":
		name := filepath.Base(f.file)
		return filepath.Join("runs", strings.TrimSuffix(name, filepath.Ext(name)))
	default:
		return filepath.Join("runs", "small")
	}
}

// base is what files and flags are laid over. A run folder alone means the run as it was.
func (f *configFlags) base(dir string) (protocol.Config, error) {
	if f.preset == "" && f.file == "" {
		saved, err := savedConfig(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			return saved, err
		}
	}
	if f.preset == "" {
		return protocol.PresetConfig("small")
	}
	return protocol.PresetConfig(f.preset)
}

// runName makes a name for the bus of a run folder's.
func runName(dir string) string {
	base := dir
	if absolute, err := filepath.Abs(dir); err == nil { // --run . has no name of its own
		base = absolute
	}
	name := []byte(filepath.Base(base))
	for i, c := range name {
		if !protocol.ValidName(string(c)) {
			name[i] = '-'
		}
	}
	return string(name[:min(len(name), protocol.MaxName)])
}

// readConfigFile reads a configuration, one byte more at most than Merge takes.
func readConfigFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	defer f.Close()
	document, err := io.ReadAll(io.LimitReader(f, protocol.MaxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrConfig, err)
	}
	return document, nil
}

// savedConfig reads the configuration of a run folder; the error is fs.ErrNotExist for a new one.
func savedConfig(dir string) (protocol.Config, error) {
	path := filepath.Join(dir, configFile)
	document, err := readConfigFile(path)
	if err != nil {
		return protocol.Config{}, err
	}
	return protocol.DecodeConfig(path, document)
}

// claimRun makes the run folder, keeps other processes out of it until unlock, and refuses to go on
// with a run of other settings. A new folder is a run's only once saveConfig has been called, when
// all that the configuration asks for has been built.
func claimRun(dir string, cfg protocol.Config, changeTask bool) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("run folder: %w", err)
	}
	if unlock, err = lockRun(dir, "lock"); err != nil {
		return nil, err
	}
	if err := resumable(dir, cfg, changeTask); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// resumable refuses a configuration under which the run of a folder cannot go on. With changeTask it may go on in
// another environment that looks the same to the networks.
func resumable(dir string, cfg protocol.Config, changeTask bool) error {
	saved, err := savedConfig(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	differences := protocol.Compatible(saved, cfg)
	isTask := func(d protocol.Difference) bool { return strings.HasPrefix(d.Key, "env.") }
	if changeTask && slices.ContainsFunc(differences, isTask) {
		if err := sameShapes(dir, saved, cfg); err != nil {
			return err
		}
		differences = slices.DeleteFunc(differences, isTask)
	}
	if len(differences) == 0 {
		return nil
	}
	var list strings.Builder
	for _, d := range differences {
		fmt.Fprintf(&list, "\n  %s", d)
	}
	hint := "Give the saved settings, or another --run"
	if !changeTask && !slices.ContainsFunc(differences, func(d protocol.Difference) bool { return !isTask(d) }) {
		hint += "; or --change-task, to go on with what was learnt in this other environment"
	}
	return fmt.Errorf("%w: %s was begun with other settings, which belong to a run for life:%s\n%s",
		protocol.ErrConfig, dir, list.String(), hint)
}

// sameShapes refuses an environment that the networks and the replay of a run do not fit.
func sameShapes(dir string, saved, cfg protocol.Config) error {
	if cfg.Lockstep {
		return fmt.Errorf("%w: --change-task: %s is a lockstep run, whose actors go on inside their episodes; only others can change their task",
			protocol.ErrConfig, dir)
	}
	before, err := newWorld(saved)
	if err != nil {
		return err
	}
	after, err := newWorld(cfg)
	if err != nil {
		return err
	}
	return fits(dir, before, after)
}

// fits refuses an environment whose observations or actions differ from those that a run's networks take.
func fits(dir string, trained, other *world) error {
	if a, b := trained.spec, other.spec; a != b {
		return fmt.Errorf("%w: the networks of %s take %d observed values and choose among %d servers, but in the other environment there are %d and %d; keep env.servers, env.load_scales, env.observe_rates, env.observe_measured and env.observe_mask",
			protocol.ErrConfig, dir, a.Obs, a.Actions, b.Obs, b.Actions)
	}
	return nil
}

// saveConfig writes the configuration of a run into its folder. What came from the environment is
// not the run's: there it stays as it was saved before, or empty.
func saveConfig(dir string, cfg protocol.Config, lookupEnv func(string) (string, bool)) error {
	saved, err := savedConfig(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if fromEnvironment(cfg.Bus.URL, urlVariable, lookupEnv) {
		cfg.Bus.URL = saved.Bus.URL
	}
	if fromEnvironment(cfg.Bus.Creds, credsVariable, lookupEnv) {
		cfg.Bus.Creds = saved.Bus.Creds
	}
	document, err := cfg.Encode()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, configFile)
	if err := os.WriteFile(path+".new", document, 0o644); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}

// Variables of the environment that are read here; model's kernels read another.
const (
	urlVariable     = "DREAMFLEET_NATS_URL"
	credsVariable   = "DREAMFLEET_NATS_CREDS"
	kernelVariable  = "DREAMFLEET_KERNEL"
	monitorVariable = "DREAMFLEET_MONITOR"
	ledgerVariable  = "DREAMFLEET_LEDGER" // file in which actors note what was acknowledged, for tests
)

// fromEnvironment tells whether a variable gave a setting its value.
func fromEnvironment(value, variable string, lookupEnv func(string) (string, bool)) bool {
	text, ok := lookupEnv(variable)
	return ok && text == value
}

// unknownVariables are those of the environment that look like ours and mean nothing.
func unknownVariables(environ []string) []string {
	var unknown []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "DREAMFLEET_") && !slices.Contains([]string{urlVariable, credsVariable, kernelVariable, monitorVariable, ledgerVariable}, name) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// newLogger writes log lines of a level and above.
func newLogger(level string, out io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "dreamfleet", Level: hclog.LevelFromString(level), Output: out})
}
