// Package deploy brings a run's roles to the hosts of an inventory, over the OpenSSH client that is
// installed, and keeps them there as the inventory says.
//
// An [Inventory] says which host plays which roles. For each host, [Inventory.Want] makes of it the
// files and the units, which are processes, that should be there. [Observe] asks the host what is
// there. [Plan] compares the two and returns the commands that make up the difference, and no others:
// it is a pure function, and its commands are what --dry-run prints. [Fleet] runs them, several hosts
// at a time; a host that cannot be reached is named at the end and keeps nobody else waiting.
//
// On a host everything lies in one folder, dreamfleet/RUN in the user's home unless the inventory
// says otherwise:
//
//	host.sh          starts, stops and tells; the embedded file of this folder
//	bin/             the binary, its digest in its name, so that what runs keeps its own
//	etc/, keys/      configuration and certificates; keys, mode 0600, only those of the host's roles
//	units/ROLE       how a role is started: environment, command line, digests of all it depends on
//	state/, log/     process ids and exit codes; what units have said
//	runs/RUN, nats/  what replay, learner and server keep
//
// A unit is current while the digest of its role's file is the one it was started with. So whatever a
// role depends on, binary, key, configuration, address or variable, restarts that role when it
// changes, and nothing else.
//
// Nothing secret stands on a command line, here or there: keys, and the unit files, whose addresses
// may contain a password, go through standard input.
package deploy
