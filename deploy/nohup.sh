#!/usr/bin/env bash
# Keeps roles running under nohup, on this machine or, over ssh, on another:
#
#     deploy/nohup.sh start ROLE FOLDER [FLAGS...]    ROLE is nats, replay, learner or actor
#     deploy/nohup.sh stop ROLE FOLDER                asks it to save and end, and waits
#     deploy/nohup.sh status FOLDER                   lists the roles that run
#
# FOLDER is the run folder; a role's process id and log lie in FOLDER/ROLE.pid and
# FOLDER/ROLE.log. A machine with several actors numbers them: actor-1, actor-2.
# DREAMFLEET names the binary, bin/dreamfleet unless set.
set -euo pipefail

usage() {
	sed -n 's/^#     //p' "$0" >&2
	exit 2
}

# alive prints the process id of a role that runs; an id left over from a crash may meanwhile
# belong to somebody else.
alive() {
	local pid
	pid=$(cat "$1" 2>/dev/null) || return 1
	[ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$binary" ] || return 1
	echo "$pid"
}

binary=$(readlink -f "${DREAMFLEET:-bin/dreamfleet}")
[ $# -ge 2 ] || usage

case $1 in
start)
	[ $# -ge 3 ] || usage
	role=$2 folder=$3
	shift 3
	[ -x "$binary" ] || { echo "no binary at $binary: make build" >&2; exit 1; }
	mkdir -p "$folder"
	if pid=$(alive "$folder/$role.pid"); then
		echo "$role runs already, as process $pid" >&2
		exit 1
	fi
	case $role in
	nats) where=(--store "$folder/nats") ;;
	replay | learner | actor | actor-*) where=(--run "$folder") ;;
	*) usage ;;
	esac
	nohup "$binary" "${role%%-*}" "${where[@]}" "$@" </dev/null >>"$folder/$role.log" 2>&1 &
	echo $! >"$folder/$role.pid"
	echo "$role runs as process $!, log in $folder/$role.log"
	;;
stop)
	[ $# -eq 3 ] || usage
	role=$2 folder=$3
	if ! pid=$(alive "$folder/$role.pid"); then
		echo "$role does not run"
		exit 0
	fi
	kill -TERM "$pid"
	for _ in $(seq 150); do
		alive "$folder/$role.pid" >/dev/null || { rm -f "$folder/$role.pid"; echo "$role has ended"; exit 0; }
		sleep 0.1
	done
	echo "$role, process $pid, has not ended within 15 seconds" >&2
	exit 1
	;;
status)
	for file in "$2"/*.pid; do
		if pid=$(alive "$file"); then
			echo "$(basename "$file" .pid) runs as process $pid"
		fi
	done
	;;
*) usage ;;
esac
