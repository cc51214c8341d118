"""Unmodified matrix-js-sdk clients with encryption; each request goes to a random process."""

from pathlib import Path

import pytest

from tests.support.servers.javascript import NodeMissing, installed_clients, node, run_script
from tests.support.servers.processes import Cluster

pytestmark = [pytest.mark.process, pytest.mark.js]


@pytest.fixture(scope="module")
def clients() -> Path:
    """The folder with the installed npm packages."""
    try:
        folder = installed_clients()
        node(folder)
    except NodeMissing as error:
        pytest.skip(str(error))
    return folder


def run(cluster: Cluster, clients: Path, script: str, **settings: str) -> list[str]:
    """Run a script, which must succeed; return the names of its steps."""
    status, output = run_script(clients, script, cluster.urls, settings)
    assert status == 0, f"{cluster.logs()}\n{output[-8000:]}"
    return [line.split()[1] for line in output.splitlines() if line.startswith("ok ")]


def test_encryption_with_several_devices(cluster: Cluster, clients: Path) -> None:
    steps = run(cluster, clients, "encryption.mjs", HS_TAG="talk")

    assert steps == [
        "register_both",
        "set_up_keys_and_secrets",
        "exchange_messages",
        "verify_each_other_in_a_room",
        "send_an_encrypted_file",
        "back_up_all_keys",
        "recover_on_a_new_device",
        "verify_a_new_device_by_emoji",
        "leave_a_dehydrated_device",
        "rehydrate",
        "reset_identity",
        "remove_a_device",
    ]
