# Sourced by the other scripts. Creates .venv and installs the Debian packages that it needs.
# Reads ROOT. Defines VENV, say, fail, as_root, apt_install, make_venv and install_hs.

VENV="${HS_VENV:-$ROOT/.venv}"

# Each start of the server would compile all modules again, and the tests start it hundreds of times.
unset PYTHONDONTWRITEBYTECODE

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

fail() { printf '%s\n' "$*" >&2; exit 1; }

# Succeeds if commands can be run as root without a password prompt.
can_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# apt_install REASON PACKAGE...: installs packages, or fails with the list of packages to install.
apt_install() {
    reason=$1; shift
    if ! command -v apt-get >/dev/null || ! can_be_root; then
        fail "$reason. Install these packages and try again: $*
(on Debian or Ubuntu: sudo apt-get install $*)"
    fi
    say "Installing $* ($reason)"
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >/dev/null 2>&1; then
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >/dev/null
    fi
}

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            command -v "$candidate"
            return
        fi
    done
}

make_venv() {
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
    python=$(find_python)
    if [ -z "$python" ]; then
        apt_install "Python 3.11 or newer is needed" python3 python3-venv
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11 or newer is needed, but this system has an older version. Install a newer one."
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        apt_install "Python's venv module is missing" python3-venv
    say "Creating $VENV"
    "$python" -m venv --clear "$VENV"
}

# install_hs EXTRA: installs hs from this checkout if pyproject.toml has changed since the last time.
install_hs() {
    make_venv
    stamp="$VENV/.hs-installed$1"
    state=$(cksum < "$ROOT/pyproject.toml")
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && return
    say "Installing hs$1 into $VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --editable "$ROOT$1"
    printf '%s\n' "$state" > "$stamp"
}
