#!/bin/sh
# Installs what the tests need, then runs them. Arguments go to pytest:
#
#   scripts/test.sh                    everything but the tests that take minutes
#   scripts/test.sh -m long            those
#   scripts/test.sh -m js              JavaScript clients, which need npm (left out otherwise)
#   scripts/test.sh tests/core -x      a part
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"

# Where Debian keeps PostgreSQL's server programs, which are not on the path.
postgres_programs() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1; }

missing=""
[ -n "$(postgres_programs)" ] || command -v pg_ctl >/dev/null || missing="$missing postgresql"
command -v redis-server >/dev/null || missing="$missing redis-server"
# shellcheck disable=SC2086 # several packages
[ -z "$missing" ] || apt_install "The tests run on PostgreSQL and Redis as well" $missing

install_hs "[test]"
cd "$ROOT"
# On two processors at a time, each with a PostgreSQL and a Redis of its own; `-n 0` for one only.
exec "$VENV/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadfile "$@"
