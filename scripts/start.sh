#!/bin/sh
# Installs hs into .venv on first use, then runs it. Options are those of `hs serve`:
#
#   scripts/start.sh                              a server of its own in ./data
#   scripts/start.sh --server-name example.org    the same, with a name that is here to stay
#   scripts/start.sh -c a.yaml -c b.yaml          with a configuration that exists
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/environment.sh"

install_hs ""
case " $* " in
    *" -c "* | *" --config"* | *" --data-dir"* | *" -h "* | *" --help "*) ;;
    *) set -- --data-dir "$ROOT/data" "$@" ;;
esac
exec "$VENV/bin/hs" serve "$@"
