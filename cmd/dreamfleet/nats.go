package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dreamfleet/dreamfleet/protocol"
)

func newNATSCommand() *cobra.Command {
	var cfg protocol.ServerConfig
	var level string
	var monitor monitorFlag
	cmd := &cobra.Command{
		Use:   "nats",
		Short: "Run the NATS server that roles in other processes meet at",
		Long: `Run the server that train embeds, standing alone, for roles in other processes and on other
machines. Any NATS server with JetStream does as well: see deploy/nats-server.conf.

Beyond this machine the server lets in nobody without a key. --keys makes one for each role on
first use: hand actor.nk to the machines of actors, and so on, and name it there in
DREAMFLEET_NATS_CREDS. For TLS, and for a cluster that outlives a server, see 'nats init'.`,
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
			log := newLogger(level, cmd.ErrOrStderr())
			p, err := monitor.start(cmd.Context(), "nats", "", log, checkServer)
			if err != nil {
				return err
			}
			defer p.Close()
			server, err := protocol.StartServer(cfg, log)
			if err != nil {
				return ended(cmd.Context(), err)
			}
			defer server.Close()
			showServer(p, server, log)
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "NATS server ready: DREAMFLEET_NATS_URL=%s\n", server.URL()); err != nil {
				return err
			}
			return ended(cmd.Context(), server.Await(cmd.Context()))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:4222", "`address` to listen on, host:port; port 0 takes a free one")
	flags.StringVar(&cfg.StoreDir, "store", "", "`folder` of the streams and buckets")
	flags.StringVar(&cfg.Keys, "keys", "", "`folder` of the keys <role>.nk to let in, made where missing")
	flags.StringVar(&cfg.File, "config", "", "configuration `file` of nats-server to start from")
	flags.StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	monitor.register(cmd)
	cmd.MarkFlagsOneRequired("store", "config")
	must(cmd.MarkFlagDirname("store"))
	must(cmd.MarkFlagDirname("keys"))
	cmd.AddCommand(newNATSInitCommand())
	return cmd
}

func newNATSInitCommand() *cobra.Command {
	var cluster protocol.Cluster
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write the files of NATS servers with TLS and a key for each role",
		Long: `Write what one NATS server, or a cluster of three that outlives the loss of one, needs to serve a
fleet over networks that others can reach: for each host a folder with nats-server.conf and a
certificate, and for each role a key file that lets in who has it, to do what the role does and
nothing else. nats-server and 'dreamfleet nats --config' both read the configuration.

Again, it keeps keys and certificates, renews certificates in the last third of their two years,
and follows a changed list of hosts or keys. The folder holds the key of the authority that
signs certificates, valid for ten years: keep it where no role runs.`,
		Example: `  # Three servers; on each host, its folder comes to lie in /etc/dreamfleet/nats.
  dreamfleet nats init --out fleet --hosts 10.0.0.1,10.0.0.2,10.0.0.3 --install /etc/dreamfleet/nats

  # Further keys: for the actors of one site, to be taken back by themselves; for one run only.
  dreamfleet nats init --out fleet --hosts 10.0.0.1,10.0.0.2,10.0.0.3 --install /etc/dreamfleet/nats --key actor-paris --key actor@small

  # One server on this machine, and how it is started.
  dreamfleet nats init --out fleet --hosts 127.0.0.1
  dreamfleet nats --config fleet/127.0.0.1/nats-server.conf`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cluster.Now = time.Now()
			files, err := cluster.Init()
			if err != nil {
				return fmt.Errorf("nats init: %w", err)
			}
			return printCluster(cmd.OutOrStdout(), cluster, files)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cluster.Dir, "out", "nats", "`folder` to write to")
	flags.StringSliceVar(&cluster.Hosts, "hosts", nil, "`addresses` of all servers, HOST or HOST:PORT, as the roles reach them")
	flags.StringVar(&cluster.Name, "name", "dreamfleet", "`name` of the cluster")
	flags.StringVar(&cluster.Install, "install", "", "`folder` in which a server's folder will lie on its host (default: where it is written)")
	flags.StringArrayVar(&cluster.Keys, "key", nil, "further `key` to make, ROLE-LABEL or actor@RUN; may be repeated")
	must(cmd.MarkFlagRequired("hosts"))
	must(cmd.MarkFlagDirname("out"))
	return cmd
}

// printCluster says what belongs where.
func printCluster(out io.Writer, c protocol.Cluster, files *protocol.ClusterFiles) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "copy\tto\t")
	for _, n := range files.Nodes {
		at := c.Install
		if at == "" {
			at = n.Dir
		}
		fmt.Fprintf(w, "%s/\t%s:%s/\tcertificate %s\n", n.Dir, n.Host, at, n.Certificate)
	}
	for _, key := range files.Keys {
		role, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(key), ".nk"), "@")
		role, _, _ = strings.Cut(role, "-")
		fmt.Fprintf(w, "%s\tmachines of role %s\tname it in DREAMFLEET_NATS_CREDS\n", key, role)
	}
	fmt.Fprintf(w, "%s\tnowhere\tit signs certificates\n", filepath.Join(c.Dir, "ca.key"))
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "roles connect with DREAMFLEET_NATS_URL=%s\n", files.URL())
	return err
}
