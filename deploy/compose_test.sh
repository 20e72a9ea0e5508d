#!/bin/sh
# Builds the image and has all roles of two small runs, one after the other on the same bus, come to their end in containers.
set -eu
compose() { docker compose --project-name dreamfleet-test --file "$(dirname "$0")/compose.yaml" "$@"; }
fail() {
	compose logs --tail 20
	echo "$RUN: $1" >&2
	exit 1
}
export PRESET=debug RUN=none
trap 'compose down --volumes --timeout 15 >/dev/null 2>&1' EXIT
compose down --volumes >/dev/null 2>&1
compose build
for RUN in first second; do
	compose up --detach --scale actor=2
	learner=$(compose ps --all --quiet learner)
	[ "$(timeout 300 docker wait "$learner")" = 0 ] || fail "the learner did not come to its end"
	compose logs learner | grep -q "Written to /data/$RUN" || fail "the learner has written no scores"
	compose stop --timeout 15
	for container in $(compose ps --all --quiet); do
		[ "$(docker inspect --format '{{.State.ExitCode}}' "$container")" = 0 ] || fail "container $container did not end in order"
	done
done
