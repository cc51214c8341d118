"""The limit on open files and connections of a process."""

import resource
from collections.abc import Iterator

import pytest

from hs.nursery.nursery_tree import public_limits
from hs.nursery.pid_file import limit_open_files
from hs.settings.sections.connections import ConnectionSettings


@pytest.fixture(autouse=True)
def hard_limit() -> Iterator[int]:
    """Set a soft limit below the hard limit, yield the hard limit, and restore both."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] == resource.RLIM_INFINITY:
        pytest.skip("this system has no limit on open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("soft_limit", [0, 10**9])
def test_limit_is_raised_to_hard_limit(hard_limit: int, soft_limit: int) -> None:
    limit_open_files(soft_limit)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


def test_configured_limit_below_hard_limit_is_kept(hard_limit: int) -> None:
    limit_open_files(hard_limit - 10)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit - 10, hard_limit)


@pytest.mark.parametrize("files", [256, 1024])
def test_connections_leave_files_for_uploads_and_other_addresses(files: int) -> None:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard_limit))

    limits = public_limits(ConnectionSettings())

    assert files // 5 < 2 * limits.connections < files * 3 // 4
    assert limits.connections_per_source <= limits.connections // 2


def test_connections_of_an_address_may_be_unlimited() -> None:
    assert (
        public_limits(ConnectionSettings(max_connections_per_address=0)).connections_per_source == 0
    )
