package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/dreamfleet/dreamfleet/monitor/fleet"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func newStatusCommand() *cobra.Command {
	var f watchFlags
	var asJSON, again bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the health of runs: who lives, how fast, what waits",
		Long: `Show in one screen how the runs on a bus are: processes, hosts and versions, rates, the age of the
parameters, the rate limiter and what it waits for, what the replay holds, losses, the latest
evaluation, and what somebody should look at, marked with "!".

--json prints one object a time: "time" and "runs", of which each has "run", "health" ("ok" or
"attention"), "problems", the run's rates and "processes" with what their heartbeats say
(docs/formats.md). The exit code is 0 whenever the bus has answered and, with --run, the run was heard.`,
		Example: `  # All runs on a bus.
  dreamfleet status --nats nats://10.0.0.5:4222

  # One of them, again every two seconds until Ctrl-C.
  dreamfleet status --nats nats://10.0.0.5:4222 --run small --watch

  # For a script.
  dreamfleet status --nats nats://10.0.0.5:4222 --run small --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < minStatusInterval {
				return fmt.Errorf("%w: --every is %v, want %v or more", protocol.ErrConfig, every, minStatusInterval)
			}
			source, err := f.connect(cmd, f.run)
			if err != nil {
				return err
			}
			defer source.close()
			show := func(ctx context.Context) error {
				state, err := source.state(ctx, f.run)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), state)
				}
				return writeScreen(cmd.OutOrStdout(), state, again)
			}
			if !again {
				return ended(cmd.Context(), show(cmd.Context()))
			}
			return ended(cmd.Context(), repeat(cmd.Context(), every, func(ctx context.Context) error {
				if err := show(ctx); err != nil && ctx.Err() == nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "dreamfleet:", err) // it may come back
				}
				return ctx.Err()
			}))
		},
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.run, "run", "", "`name` or folder of the run (default: all runs on the bus)")
	flags.BoolVar(&asJSON, "json", false, "print JSON, one object a line, instead of a screen")
	flags.BoolVar(&again, "watch", false, "refresh until Ctrl-C")
	flags.DurationVar(&every, "every", 2*time.Second, "with --watch, how often")
	return cmd
}

// minStatusInterval keeps a watch from being a load; heartbeats come every 3.3 s.
const minStatusInterval = 200 * time.Millisecond

// repeat calls fn now and then every so often until it or ctx ends.
func repeat(ctx context.Context, every time.Duration, fn func(context.Context) error) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	for {
		if err := fn(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		case <-resized:
		}
	}
}

func writeJSON(w io.Writer, state fleet.State) error {
	text, err := json.Marshal(state)
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	return err
}

// writeScreen writes the state to what may be a terminal, over the one before in a watch.
func writeScreen(w io.Writer, state fleet.State, over bool) error {
	var screen fleet.Screen
	file, isFile := w.(*os.File)
	tty := isFile && term.IsTerminal(int(file.Fd()))
	if tty {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil {
			screen = fleet.Screen{Width: width, Rows: height}
		}
	}
	var out bytes.Buffer
	if tty && over {
		out.WriteString("\x1b[H\x1b[2J") // home, clear
	}
	if err := fleet.WriteText(&out, state, screen); err != nil {
		return err
	}
	_, err := w.Write(out.Bytes())
	return err
}
