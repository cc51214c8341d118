#!/bin/sh
# Installs the dependencies of the tests, then runs them. Arguments are passed to pytest:
#
#   scripts/test.sh                    all tests but those of the next four lines
#   scripts/test.sh -m long            the tests that take minutes
#   scripts/test.sh -m js              the tests with JavaScript clients, which need npm
#   scripts/test.sh -m synapse         federation with Synapse, which is installed from PyPI
#   scripts/test.sh -m growth -n 0     what requests cost as data grows: prints a table
#   scripts/test.sh tests/core -x      one folder, stopping at the first failure
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"

# Debian installs the server programs of PostgreSQL in a folder that is not on the PATH.
postgres_programs() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1; }

missing=""
[ -n "$(postgres_programs)" ] || command -v pg_ctl >/dev/null || missing="$missing postgresql"
command -v redis-server >/dev/null || missing="$missing redis-server"
# shellcheck disable=SC2086 # $missing is a list of packages
[ -z "$missing" ] || apt_install "The tests need PostgreSQL and Redis" $missing

install_hs "[test]"
cd "$ROOT"
# In three processes, since tests often wait for servers that they have started; each process has its
# own PostgreSQL and Redis. `-n 0` runs the tests in this process.
exec "$VENV/bin/python" -m pytest -q -p no:cacheprovider -n 3 --dist loadfile "$@"
