#!/bin/sh
# Installs hs into .venv on first use, then runs it. The options are those of `hs serve`:
#
#   scripts/start.sh                              a new server in ./data
#   scripts/start.sh --server-name example.org    the same, with a permanent server name
#   scripts/start.sh -c a.yaml -c b.yaml          with existing configuration files
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"

install_hs ""
case " $* " in
    *" -c "* | *" --config"* | *" --data-dir"* | *" -h "* | *" --help "*) ;;
    *) set -- --data-dir "$ROOT/data" "$@" ;;
esac
exec "$VENV/bin/hs" serve "$@"
