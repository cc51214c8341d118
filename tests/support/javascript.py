"""JavaScript clients: installed once for each lock file, run by a Node that is new enough."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "e2e" / "js"
INSTALL_LIMIT_S = 600.0
RUN_LIMIT_S = 900.0
OLDEST_NODE = 22


class NodeMissing(Exception):
    """What these tests need is not on this machine, and cannot be installed."""


def installed_clients() -> Path:
    """Give a folder with the clients; it is kept for the next time. Raises: NodeMissing."""
    lock = (SOURCES / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hs-tests"
    folder = cache / f"js-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="js-", dir=cache))
        try:
            _install(fresh)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NodeMissing("npm is needed to install the JavaScript clients")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    # Whether they suit the Node that npm itself runs on does not matter.
    command = [npm, "ci", "--no-audit", "--no-fund", "--engine-strict=false"]
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.CalledProcessError as error:
        raise NodeMissing(f"npm ci failed: {error.stderr.decode()[-1000:]}") from error


def node(folder: Path) -> Path:
    """Find the Node that came with the clients, or the machine's. Raises: NodeMissing."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "")
    shipped = folder / "node_modules" / f"node-linux-{machine}" / "bin" / "node"
    if shipped.exists():
        return shipped
    found = shutil.which("node")
    if found is None:
        raise NodeMissing("Node is not on this machine")
    told = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
    if int(told.lstrip("v").split(".")[0]) < OLDEST_NODE:
        raise NodeMissing(f"Node {OLDEST_NODE} or newer is needed, this is {told.strip()}")
    return Path(found)


def run_script(
    folder: Path, name: str, urls: Sequence[str], settings: Mapping[str, str]
) -> tuple[int, str]:
    """Run a script against a server's processes; give its exit status and what it said."""
    with tempfile.TemporaryDirectory(prefix="hs-js-") as place:
        # Modules are looked for beside the script.
        for source in SOURCES.glob("*.mjs"):
            shutil.copy(source, place)
        (Path(place) / "node_modules").symlink_to(folder / "node_modules")
        done = subprocess.run(
            [node(folder), "--preserve-symlinks", name],
            cwd=place,
            env={**os.environ, "HS_URLS": json.dumps(list(urls)), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=RUN_LIMIT_S,
            check=False,
        )
    return done.returncode, done.stdout
