package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func newNATSCommand() *cobra.Command {
	var cfg protocol.ServerConfig
	var level string
	cmd := &cobra.Command{
		Use:   "nats",
		Short: "Run the NATS server that roles in other processes meet at",
		Long: `Run the server that train embeds, standing alone, for roles in other processes and on other
machines. Any NATS server with JetStream does as well: see deploy/nats-server.conf.

Beyond this machine the server lets in nobody without a key. --keys makes one for each role on
first use: hand actor.nk to the machines of actors, and so on, and name it there in
DREAMFLEET_NATS_CREDS.`,
		Example: `  # On this machine.
  dreamfleet nats --store runs/nats

  # For other machines, with a key for each role.
  dreamfleet nats --listen 0.0.0.0:4222 --store /var/lib/dreamfleet/nats --keys /etc/dreamfleet/keys

  # With TLS, users or a cluster from a configuration file of nats-server.
  dreamfleet nats --config deploy/nats-server.conf`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.File != "" && !cmd.Flags().Changed("listen") {
				cfg.Listen = "" // the file's own
			}
			cfg.Stop = cmd.Context().Done()
			server, err := protocol.StartServer(cfg, newLogger(level, cmd.ErrOrStderr()))
			if err != nil {
				return ended(cmd.Context(), err)
			}
			defer server.Close()
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "NATS server ready: DREAMFLEET_NATS_URL=%s\n", server.URL()); err != nil {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:4222", "`address` to listen on, host:port; port 0 takes a free one")
	flags.StringVar(&cfg.StoreDir, "store", "", "`folder` of the streams and buckets")
	flags.StringVar(&cfg.Keys, "keys", "", "`folder` of the keys <role>.nk to let in, made where missing")
	flags.StringVar(&cfg.File, "config", "", "configuration `file` of nats-server to start from")
	flags.StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	cmd.MarkFlagsOneRequired("store", "config")
	must(cmd.MarkFlagDirname("store"))
	must(cmd.MarkFlagDirname("keys"))
	return cmd
}
