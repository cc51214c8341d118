"""Our server and a Synapse; which of both creates the rooms is a parameter."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.support.servers.matrix_user import MatrixUser, sign_up
from tests.support.servers.mixed_federation import MixedFederation, Peer, mixed_federation
from tests.support.servers.synapse import SynapseMissing, synapse_python


@pytest.fixture(scope="session")
def python_with_synapse(request: pytest.FixtureRequest) -> Path:
    """The Python that runs Synapse; the tests fail without it only if they were asked for."""
    try:
        return synapse_python()
    except SynapseMissing as error:
        chosen = request.config.getoption("markexpr")
        if "synapse" in chosen and "not synapse" not in chosen:
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(
    scope="session",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def mixed(request: pytest.FixtureRequest, python_with_synapse: Path) -> Iterator[MixedFederation]:
    """Both servers; ours as one process and as several, none of which may log an error."""
    postgres, redis = None, None
    if request.param == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with mixed_federation(request.param, python_with_synapse, postgres, redis) as running:
        yield running
        errors = {process.name: process.errors() for process in running.cluster.processes.values()}
        assert not any(errors.values()), errors


@attrs.frozen
class Sides:
    """The server on which rooms are created, and the other server."""

    near: Peer
    far: Peer
    far_is_hs: bool

    async def sign_up(self) -> tuple[MatrixUser, MatrixUser]:
        """Return a new user of each server."""
        near, far = await sign_up(self.near.ports, "near"), await sign_up(self.far.ports, "far")
        return near, far


@pytest.fixture(params=["hs", "synapse"])
def sides(request: pytest.FixtureRequest, mixed: MixedFederation) -> Sides:
    """The servers, in both orders."""
    if request.param == "hs":
        return Sides(near=mixed.hs, far=mixed.synapse, far_is_hs=False)
    return Sides(near=mixed.synapse, far=mixed.hs, far_is_hs=True)
