package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/learner"
	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Metadata of a policy file: the run's configuration, the train steps behind it, and the digest of the same file
// without any metadata.
const (
	policyConfig  = "dreamfleet.config"
	policyUpdates = "dreamfleet.updates"
	policyDigest  = "dreamfleet.sha256"
)

// errPolicy reports a file that export did not write, or that is no longer as it was written.
var errPolicy = errors.New("no policy file")

func newExportCommand() *cobra.Command {
	var run, out, level string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a run's policy as one file, to keep or to share",
		Long: `Write what acts of a run's newest checkpoint, and the run's configuration, as one safetensors file.
'dreamfleet evaluate --policy' scores it like the run. What only training needs is left out: world model
heads, critic, optimiser and replay. The run itself is left as it is.`,
		Example: `  dreamfleet export --run runs/small --out small.safetensors
  dreamfleet evaluate --policy small.safetensors --seeds 3000-3999`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := savedConfig(run)
			if err != nil {
				return err
			}
			w, err := newWorld(cfg)
			if err != nil {
				return err
			}
			agent, ckpt, err := savedAgent(cfg, w, run, newLogger(level, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			defer agent.Close()
			blob, err := agent.Params(nil)
			if err != nil {
				return err
			}
			return writePolicy(out, cfg, blob, ckpt)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&run, "run", filepath.Join("runs", "small"), "run `folder`")
	flags.StringVar(&out, "out", "policy.safetensors", "`file` to write")
	flags.StringVar(&level, "log-level", "warn", "trace, debug, info, warn or error")
	must(cmd.MarkFlagDirname("run"))
	return cmd
}

// writePolicy writes acting parameters, a safetensors blob, with what is needed to act by them.
func writePolicy(path string, cfg protocol.Config, blob []byte, ckpt *learner.Checkpoint) error {
	document, err := cfg.Encode()
	if err != nil {
		return err
	}
	f, err := model.ReadFile(bytes.NewReader(blob))
	if err != nil {
		return err
	}
	digest, err := policySum(f)
	if err != nil {
		return err
	}
	f.Metadata = map[string]string{
		policyConfig: string(document), policyUpdates: strconv.FormatInt(ckpt.Manifest.Updates, 10), policyDigest: digest,
	}
	var file bytes.Buffer
	if _, err := f.WriteTo(&file); err != nil {
		return err
	}
	return monitor.WriteAside(path, file.Bytes())
}

// policySum is the digest of a file's tensors as they are written.
func policySum(f *model.File) (string, error) {
	plain := model.File{Tensors: f.Tensors}
	sum := sha256.New()
	if _, err := plain.WriteTo(sum); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// readPolicy reads what export wrote: the run's configuration, and the parameters as a policy loads them.
func readPolicy(path string) (cfg protocol.Config, blob []byte, err error) {
	r, err := os.Open(path)
	if err != nil {
		return cfg, nil, fmt.Errorf("%w: %w", errPolicy, err)
	}
	defer r.Close()
	f, err := model.ReadFile(r)
	if err != nil {
		return cfg, nil, fmt.Errorf("%s: %w: %w", path, errPolicy, err)
	}
	document, ok := f.Metadata[policyConfig]
	if !ok {
		return cfg, nil, fmt.Errorf("%s: %w: it has no configuration; 'dreamfleet export' writes one", path, errPolicy)
	}
	digest, err := policySum(f)
	if err != nil {
		return cfg, nil, err
	}
	if digest != f.Metadata[policyDigest] {
		return cfg, nil, fmt.Errorf("%s: %w: its parameters are not those that were written", path, errPolicy)
	}
	if cfg, err = protocol.DecodeConfig(path, []byte(document)); err != nil {
		return cfg, nil, err
	}
	var plain bytes.Buffer
	_, err = (&model.File{Tensors: f.Tensors}).WriteTo(&plain)
	return cfg, plain.Bytes(), err
}
