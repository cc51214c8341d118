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
# In three processes, since tests often wait for servers that they have started; each process has its
# own PostgreSQL and Redis. `-n 0` runs the tests in this process.
exec "$VENV/bin/python" -m pytest -q -p no:cacheprovider -n 3 --dist loadfile "$@"
