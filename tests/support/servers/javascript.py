"""JavaScript clients: installed once per lock file, and run by a recent Node."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "e2e" / "js"
INSTALL_LIMIT_S = 600.0
RUN_LIMIT_S = 900.0
OLDEST_NODE = 22


class NodeMissing(Exception):
    """Node, npm or the clients are not available and cannot be installed."""


def installed_clients() -> Path:
    """Return a folder with the clients, which is kept for later runs.

    Raises: NodeMissing.
    """
    lock = (SOURCES / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hs-tests"
    folder = cache / f"js-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        new_folder = Path(tempfile.mkdtemp(prefix="js-", dir=cache))
        try:
            _install(new_folder)
            new_folder.rename(folder)
        finally:
            shutil.rmtree(new_folder, ignore_errors=True)
    return folder


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NodeMissing("npm is needed to install the JavaScript clients")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    # The clients run on the Node that is installed with them, not on the one that runs npm.
    command = [npm, "ci", "--no-audit", "--no-fund", "--engine-strict=false"]
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.CalledProcessError as error:
        raise NodeMissing(f"npm ci failed: {error.stderr.decode()[-1000:]}") from error


def node(folder: Path) -> Path:
    """Return the Node installed with the clients, or the one of the machine.

    Raises: NodeMissing.
    """
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "")
    shipped = folder / "node_modules" / f"node-linux-{machine}" / "bin" / "node"
    if shipped.exists():
        return shipped
    on_path = shutil.which("node")
    if on_path is None:
        raise NodeMissing("Node is not installed")
    version = subprocess.run(
        [on_path, "--version"], check=True, capture_output=True, text=True
    ).stdout
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        raise NodeMissing(f"Node {OLDEST_NODE} or newer is needed, this is {version.strip()}")
    return Path(on_path)


def run_script(
    folder: Path, name: str, urls: Sequence[str], settings: Mapping[str, str]
) -> tuple[int, str]:
    """Run a script against a server's processes; return its exit status and output."""
    with tempfile.TemporaryDirectory(prefix="hs-js-") as script_folder:
        # Node resolves modules relative to the script.
        for source in SOURCES.glob("*.mjs"):
            shutil.copy(source, script_folder)
        (Path(script_folder) / "node_modules").symlink_to(folder / "node_modules")
        completed = subprocess.run(
            [node(folder), "--preserve-symlinks", name],
            cwd=script_folder,
            env={**os.environ, "HS_URLS": json.dumps(list(urls)), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=RUN_LIMIT_S,
            check=False,
        )
    return completed.returncode, completed.stdout
