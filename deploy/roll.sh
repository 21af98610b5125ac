#!/bin/sh
# Replaces all servers of docker-compose.replicas.yml without a failed request, as after a new image or setting:
#
#   docker compose build --pull && deploy/roll.sh
#
# One after the other: a new server is started beside the old ones; when it is healthy and the balancer sends to it, an
# old one is stopped, which announces that, takes what is still sent to it, and finishes its streams. `docker compose up`
# would stop all of them at once. Takes the same .env and COMPOSE_… variables as docker compose does. Ends with an error,
# and the old servers serving, where a new one does not become healthy. Interrupted, it removes a new server that is not
# proven: run it again, and then `docker compose up`, which removes one too many.
set -eu
cd "$(dirname "$0")/.."
PATIENCE=${ROLL_PATIENCE_SECONDS:-120}

# Two at once would each take the other's new servers for old ones.
if command -v flock >/dev/null; then
    exec 9<deploy/roll.sh
    flock --nonblock 9 || { echo "roll: it is running already" >&2; exit 1; }
fi
balancer=$(docker compose ps --quiet balancer)
[ -n "$balancer" ] || { echo "roll: no balancer runs here: docker compose up --detach --wait" >&2; exit 1; }
project=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.project"}}' "$balancer")

# Not by `docker compose ps --all`, which counts what `docker compose run` has started or left, too.
containers() {
    docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.service=weightloom --filter label=com.docker.compose.oneoff=False "$@" | sort
}
health() { docker inspect --format '{{.State.Health.Status}}' "$1"; }
ready() {
    docker compose exec -T balancer bash -c \
        'exec 3<>/dev/tcp/127.0.0.1/8404; printf "GET /ready-servers HTTP/1.0\r\n\r\n" >&3; tail -n 1 <&3'
}
wait_for() {
    what=$1 left=$((PATIENCE * 2))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || { echo "roll: $what did not come within $PATIENCE s" >&2; return 1; }
        sleep 0.5
    done
}
is_healthy() { [ "$(health "$1")" = healthy ]; }
are_ready() { [ "$(ready)" -ge "$1" ]; }

# Not with --no-deps, which makes other containers of it: the next `docker compose up` would replace them all.
start_one() {
    docker compose up --detach --no-build --no-recreate --scale "weightloom=$(($(echo "$known" | wc -l) + 1))" weightloom
}
new() {
    for container in $(containers); do
        case $known in *"$container"*) ;; *) echo "$container" ;; esac
    done
}
drop() { for container in "$@"; do docker rm --force "$container" >/dev/null; done; }

[ -n "$(containers --filter status=running)" ] || { echo "roll: no server runs here" >&2; exit 1; }
# What does not run, as after a roll that was interrupted, would be started again by `docker compose up`, as it is.
drop $(containers --filter status=created --filter status=exited --filter status=dead)
known=$(containers)
trap 'drop $(new); echo "roll: interrupted: run it again, then docker compose up --detach --wait" >&2; exit 130' INT TERM HUP
for old in $known; do
    ready_before=$(ready) known=$(containers)
    start_one && wait_for "a healthy new server" is_healthy "$(new)" &&
        wait_for "the balancer" are_ready $((ready_before + 1)) || {
        for container in $(new); do docker logs --tail 20 "$container" >&2; done
        drop $(new)
        exit 1
    }
    echo "roll: replacing $(echo "$old" | cut -c 1-12) by $(new | cut -c 1-12)"
    known=$(containers)
    docker stop "$old" >/dev/null
    docker rm "$old" >/dev/null
done
