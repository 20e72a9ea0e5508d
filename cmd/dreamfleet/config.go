package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/monitor"
	"github.com/dreamfleet/dreamfleet/protocol"
)

//go:generate go run . config --markdown ../../docs/configuration.md
//go:generate go run . config --metrics-markdown ../../docs/metrics.md
//go:generate sh -c "go run . bench scale --sizing ../../docs/results/scale/figures.jsonl > sizing.tmp && mv sizing.tmp ../../docs/sizing.md"

func newConfigCommand() *cobra.Command {
	var flags configFlags
	var reference, presets bool
	var markdown, metricsMarkdown string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the configuration that the same flags would train with",
		Long: `Print the configuration that the same flags would give to train: a preset, under a YAML file,
under --set. What is printed is a configuration file itself.`,
		Example: `  # The defaults, as a file to edit.
  dreamfleet config > run.yaml

  # What a command line comes to.
  dreamfleet config --preset 1m --config run.yaml --set learner.batch_size=32

  # Every key with its meaning, unit and cost; the presets.
  dreamfleet config --reference
  dreamfleet config --presets`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			switch {
			case markdown != "":
				if err := os.WriteFile(markdown, []byte(referenceMarkdown()), 0o644); err != nil {
					return fmt.Errorf("write reference: %w", err)
				}
				return nil
			case metricsMarkdown != "":
				if err := os.WriteFile(metricsMarkdown, []byte(monitor.MetricsMarkdown()), 0o644); err != nil {
					return fmt.Errorf("write metrics: %w", err)
				}
				return nil
			case reference:
				return printReference(out)
			case presets:
				return printPresets(out)
			}
			cfg, dir, err := flags.resolve(cmd, os.LookupEnv)
			if err != nil {
				return err
			}
			if cfg.Run == runName(dir) {
				cfg.Run = "" // another folder that the file is used for has its own name
			}
			document, err := cfg.Encode()
			if err != nil {
				return err
			}
			_, err = out.Write(document)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&reference, "reference", false, "print every key with its meaning and cost")
	cmd.Flags().BoolVar(&presets, "presets", false, "print the presets")
	cmd.Flags().StringVar(&markdown, "markdown", "", "write the reference as Markdown into a `file`")
	must(cmd.Flags().MarkHidden("markdown"))
	cmd.Flags().StringVar(&metricsMarkdown, "metrics-markdown", "", "write the list of metrics as Markdown into a `file`")
	must(cmd.Flags().MarkHidden("metrics-markdown"))
	cmd.MarkFlagsMutuallyExclusive("reference", "presets", "markdown", "metrics-markdown")
	return cmd
}

func printReference(out io.Writer) error {
	var b strings.Builder
	for _, s := range protocol.Reference() {
		for _, k := range s.Keys {
			fmt.Fprintf(&b, "%s = %s\n%s\n", k.Name, k.Default, wrap(describeKey(k), "    ", 96))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func describeKey(k protocol.Key) string {
	if k.Resume {
		return k.Doc + " May change when a run is resumed."
	}
	return k.Doc
}

func printPresets(out io.Writer) error {
	for _, p := range protocol.Presets() {
		if _, err := fmt.Fprintf(out, "%s\n%s\n", p.Name, wrap(p.Doc, "    ", 96)); err != nil {
			return err
		}
	}
	return nil
}

// wrap fills lines of a width with words.
func wrap(text, indent string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+len(word) > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

// referenceMarkdown is docs/configuration.md.
func referenceMarkdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Generated from protocol/config.go by go generate; edit the comments there. -->

A run is configured by one YAML file over a preset, and by ` + "`--set key=value`" + ` over that:

    dreamfleet train --preset small --config run.yaml --set learner.batch_size=32

` + "`dreamfleet config`" + ` with the same flags prints what they come to. An unknown key is an error, with
the nearest known one named; so is a value that cannot work. Of the keys the environment sets
addresses and secrets only: ` + "`DREAMFLEET_NATS_URL` is `bus.url` and `DREAMFLEET_NATS_CREDS` is `bus.creds`" + `.
Where a process is watched, ` + "`--monitor` or `DREAMFLEET_MONITOR`" + `, is its own and no key.
What chooses the processor's instructions, ` + "`DREAMFLEET_KERNEL`" + `, is no key: the
[guide](guide.md#repeat-to-the-byte) has it.

The resolved configuration is saved in the run folder, without what the environment has set. A run
can be resumed with other values of the keys marked *resume*; all others belong to it for life.

## Presets

`)
	for _, p := range protocol.Presets() {
		fmt.Fprintf(&b, "- `%s`: %s\n", p.Name, p.Doc)
	}
	for _, s := range protocol.Reference() {
		title := s.Name
		if title == "" {
			title = "The run"
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| key | default | |\n|---|---|---|\n", title, wrap(sectionDoc(s), "", 96))
		for _, k := range s.Keys {
			doc := k.Doc
			if k.Resume {
				doc += " *resume*"
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", k.Name, k.Default, strings.ReplaceAll(doc, "|", `\|`))
		}
	}
	return b.String()
}

// sectionDoc is a section's comment without the name of its Go type.
func sectionDoc(s protocol.Section) string {
	if s.Name == "" {
		return "Keys at the top of the file."
	}
	_, rest, ok := strings.Cut(s.Doc, "Section ")
	if !ok {
		return s.Doc
	}
	switch verb, rest, _ := strings.Cut(rest, " "); verb {
	case "is":
		return strings.ToUpper(rest[:1]) + rest[1:]
	case "says":
		return "Says " + rest
	}
	return rest
}
