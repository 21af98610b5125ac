#!/bin/sh
# Replaces all servers of docker-compose.replicas.yml without a failed request, as after a new image or setting:
#
#   docker compose build --pull && deploy/roll.sh
#
# One after the other: a new server is started beside the old ones; when it is healthy and the balancer sends to it, an
# old one is stopped, which announces that, takes what is still sent to it, and finishes its streams. `docker compose up`
# would stop all of them at once. Takes the same .env and COMPOSE_… variables as docker compose does. Ends with an error,
# and the old servers serving, where a new one does not become healthy.
set -eu
cd "$(dirname "$0")/.."
PATIENCE=${ROLL_PATIENCE_SECONDS:-120}

containers() { docker compose ps --all --quiet weightloom | sort; }
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

start_one() {
    before=$(containers) count=$(containers | wc -l)
    # Not with --no-deps, which makes other containers of it: the next `docker compose up` would replace them all.
    docker compose up --detach --no-build --no-recreate --scale "weightloom=$((count + 1))" weightloom
    for container in $(containers); do
        case $before in *"$container"*) ;; *) new=$container ;; esac
    done
}

for old in $(containers); do
    ready_before=$(ready)
    start_one
    wait_for "a healthy new server" is_healthy "$new" && wait_for "the balancer" are_ready $((ready_before + 1)) || {
        docker logs --tail 20 "$new" >&2
        docker rm --force "$new" >/dev/null
        exit 1
    }
    docker stop "$old" >/dev/null
    docker rm "$old" >/dev/null
    echo "roll: replaced $(echo "$old" | cut -c 1-12) by $(echo "$new" | cut -c 1-12)"
done
