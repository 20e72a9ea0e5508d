#!/bin/sh
# The half of dreamfleet launch that runs on a host, in the run's folder there, where it lies:
#
#     sh host.sh tell                         what is there and what runs, for launch to compare
#     sh host.sh start SERVICE UNIT...        SERVICE is nohup or systemd; what runs is restarted
#     sh host.sh stop UNIT...                 asks them to save and end, and waits
#     sh host.sh logs LINES [follow] UNIT...  the last lines of their logs
#
# A unit is nats, replay, learner, an actor with its number, actor-1, or one of several replays with
# its own, replay-1. It needs a shell and the usual tools of Linux, and no rights beyond its user's.
set -u
umask 077

# patience is how long a unit may take to end, in tenths of a second: it ends itself after ten seconds.
patience=150

# since prints when a process began, in ticks after the machine's start: with it a process id left over
# from a crash cannot be mistaken for somebody else's.
since() {
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	stat=${stat##*) }
	# shellcheck disable=SC2086
	set -- $stat
	[ "$1" != Z ] && echo "${20}"
}

digest() { sha256sum <"$1" | cut -d ' ' -f 1; }

# alive prints the process id of a unit that runs.
alive() {
	read -r pid began _ 2>/dev/null <"state/$1" || return 1
	[ "$(since "$pid")" = "$began" ] || return 1
	echo "$pid"
}

service() { echo "dreamfleet-$(basename "$PWD")-$1.service"; }

# control is systemctl for this user's services.
control() {
	if [ "$(id -u)" = 0 ]; then
		systemctl "$@"
	else
		XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)} systemctl --user "$@"
	fi
}

tell() {
	echo "system $(uname -s) $(uname -m)"
	echo "folder $PWD"
	for file in host.sh bin/* etc/* keys/* units/*; do
		[ -f "$file" ] && echo "file $(digest "$file") $(stat -c %a "$file") $file"
	done
	for file in bin/dreamfleet-*; do
		[ -x "$file" ] && echo "version $file $("$file" version 2>/dev/null | sed -n '1s/^dreamfleet //p')"
	done
	read -r up _ </proc/uptime
	for file in state/*; do
		unit=${file#state/}
		case $unit in '*' | *.*) continue ;; esac
		read -r _ began by binary <"$file" || continue
		if pid=$(alive "$unit"); then
			echo "unit $unit running $pid $((${up%.*} - began / $(getconf CLK_TCK))) $by $binary"
		elif [ -f "$file.code" ]; then
			echo "unit $unit ended $(cat "$file.code") 0 $by $binary"
		else
			echo "unit $unit lost 0 0 $by $binary"
		fi
	done
}

# play becomes the unit's process.
play() {
	role=${1%%-*}
	rm -f "state/$1.code"
	began=$(since $$)
	echo "$$ $began $(digest "units/$role") $(sed -n 's/^binary=//p' "units/$role")" >"state/$1"
	number=${1#"$role"}
	number=${number#-}
	# shellcheck source=/dev/null
	. "./units/$role" # which ends in exec
}

# keep plays a unit again when it ends, but for a learner whose budget is used up, one that is told
# wrongly what to do, and where another keeper has taken its place.
keep() {
	echo $$ >"state/$1.keeper"
	while :; do
		sh host.sh play "$1"
		code=$?
		[ "$(cat "state/$1.keeper" 2>/dev/null)" = $$ ] || return
		echo "$code" >"state/$1.code"
		case $1:$code in learner:0 | *:2) return ;; esac
		echo "host.sh: $1 has ended with $code and starts again in 5 seconds"
		sleep 5
		[ "$(cat "state/$1.keeper" 2>/dev/null)" = $$ ] || return
	done
}

# stop ends the server last, since the others save what they have on it.
stop() {
	for unit; do [ "$unit" = nats ] || ask "$unit"; done
	for unit; do [ "$unit" = nats ] || await "$unit"; done
	for unit; do
		if [ "$unit" = nats ]; then
			ask nats
			await nats
		fi
	done
}

ask() {
	rm -f "state/$1.keeper"
	if [ -f "state/$1.service" ]; then
		control disable --now --no-block "$(service "$1")" 2>/dev/null
		rm -f "state/$1.service"
	elif pid=$(alive "$1"); then
		kill -TERM "$pid" 2>/dev/null
	fi
}

await() {
	tenths=0
	while pid=$(alive "$1"); do
		if [ $tenths -ge $patience ]; then
			echo "$1, process $pid, has not ended within $((patience / 10)) seconds and is killed" >&2
			kill -KILL "$pid" 2>/dev/null
			tenths=0
		fi
		sleep 0.1
		tenths=$((tenths + 1))
	done
	rm -f "state/$1" "state/$1.code"
}

# describe tells systemd of a unit, which then starts with the machine, and again as keep would.
describe() {
	again=always
	[ "$1" != learner ] || again=on-failure
	cat >"state/$1.service" <<END
[Unit]
Description=dreamfleet $1 in $PWD
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
WorkingDirectory=$PWD
ExecStart=/bin/sh "$PWD/host.sh" play $1
ExecStopPost=/bin/sh "$PWD/host.sh" ended $1
StandardOutput=append:$PWD/log/$1.log
StandardError=inherit
Restart=$again
RestartPreventExitStatus=2
RestartSec=5
TimeoutStopSec=15
NoNewPrivileges=true

[Install]
WantedBy=$([ "$(id -u)" = 0 ] && echo multi-user.target || echo default.target)
END
	if [ "$(id -u)" = 0 ]; then where=/etc/systemd/system; else where=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user; fi
	mkdir -p "$where" && cp "state/$1.service" "$where/$(service "$1")"
}

start() {
	kind=$1
	shift
	mkdir -p state log runs
	stop "$@"
	[ "$kind" = nohup ] || [ "$(id -u)" = 0 ] || loginctl enable-linger 2>/dev/null ||
		echo "without lingering, which an administrator allows with 'loginctl enable-linger $(id -un)', units end when you log out" >&2
	for unit; do
		[ "$(wc -c 2>/dev/null <"log/$unit.log" || echo 0)" -lt 50000000 ] || mv "log/$unit.log" "log/$unit.log.1"
		if [ "$kind" = systemd ]; then
			describe "$unit" && control daemon-reload && control enable --now "$(service "$unit")" || return 1
		else
			setsid nohup sh host.sh keep "$unit" </dev/null >>"log/$unit.log" 2>&1 &
		fi
	done
	# What is wrong with a command line or a file shows at once.
	sleep 1
	failed=0
	for unit; do
		[ "$unit:$(cat "state/$unit.code" 2>/dev/null)" = learner:0 ] || alive "$unit" >/dev/null && continue
		echo "$unit does not run; its log ends with:" >&2
		tail -n 5 "log/$unit.log" >&2
		failed=1
	done
	return $failed
}

logs() {
	lines=$1
	shift
	follow=
	if [ "$1" = follow ]; then
		follow=-F
		shift
	fi
	for unit; do
		tail -n "$lines" $follow "log/$unit.log" 2>/dev/null | sed -u "s/^/$unit: /" &
	done
	# Whoever follows says that it is enough by hanging up.
	if [ -z "$follow" ]; then wait; else
		cat >/dev/null
		kill 0
	fi
}

cd "$(dirname "$0")" || exit 1
verb=$1
shift
case $verb in
tell | start | stop | logs | play | keep) "$verb" "$@" ;;
ended) [ "${EXIT_STATUS:-}" = TERM ] || echo "${EXIT_STATUS:-1}" >"state/$1.code" ;;
*)
	sed -n 's/^#     //p' "$0" >&2
	exit 2
	;;
esac
