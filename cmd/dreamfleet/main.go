package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/model"
	"github.com/dreamfleet/dreamfleet/protocol"
)

// Exit codes; a second signal exits with 130, as shells do for an interrupt.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitInterrupted = 130
)

// drainTimeout is how long a command may take to save and end once it has been asked to.
const drainTimeout = 10 * time.Second

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	go stopOnSignal(signals, cancel, os.Stderr, os.Exit)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// stopOnSignal cancels the command at the first signal. A second one, or a command that does not
// end in time, exits at once.
func stopOnSignal(signals <-chan os.Signal, cancel context.CancelFunc, stderr io.Writer, exit func(int)) {
	<-signals
	fmt.Fprintln(stderr, "dreamfleet: stopping; once more exits at once")
	cancel()
	late := time.NewTimer(drainTimeout)
	defer late.Stop()
	select {
	case <-signals:
		exit(exitInterrupted)
	case <-late.C:
		fmt.Fprintf(stderr, "dreamfleet: did not end within %v\n", drainTimeout)
		exit(exitFailure)
	}
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	for _, name := range unknownVariables(os.Environ()) {
		fmt.Fprintf(stderr, "dreamfleet: %s in the environment means nothing; known are %s, %s, %s and %s\n", name, urlVariable, credsVariable, monitorVariable, kernelVariable)
	}
	started := false // a command line that is wrong does not get so far
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := model.Kernels(); err != nil {
			return err
		}
		if err := errors.Join(cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()); err != nil {
			return err
		}
		started = true
		return nil
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = errors.New("interrupted before it was done")
	}
	fmt.Fprintf(stderr, "dreamfleet: %v\n", err)
	if started && !errors.Is(err, protocol.ErrConfig) {
		return exitFailure
	}
	fmt.Fprintf(stderr, "Run '%s --help' for its usage.\n", cmd.CommandPath())
	return exitUsage
}
