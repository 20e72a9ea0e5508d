package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/model"
)

// version is set by the Makefile; a plain `go install module@version` has the module's.
var version string

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version and how this binary was built",
		Example: `  dreamfleet version`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				info = &debug.BuildInfo{}
			}
			kernels, err := model.Kernels()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%skernels %s\n", describeBuild(version, info), kernels)
			return err
		},
	}
}

// programVersion is the version in one word.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "devel"
}

// describeBuild says what a bug report needs.
func describeBuild(version string, info *debug.BuildInfo) string {
	version, commit := buildOf(version, info)
	return fmt.Sprintf("dreamfleet %s\ncommit %s\n%s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// buildOf is the version and the commit of this binary.
func buildOf(version string, info *debug.BuildInfo) (ver, commit string) {
	if version == "" {
		version = info.Main.Version
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	commit = settings["vcs.revision"]
	switch {
	case commit == "":
		commit = "unknown"
	case settings["vcs.modified"] == "true":
		commit += " with changes, " + settings["vcs.time"]
	default:
		commit += ", " + settings["vcs.time"]
	}
	return version, commit
}
