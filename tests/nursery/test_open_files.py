"""How many files and connections a process may have open."""

import resource
from collections.abc import Iterator

import pytest

from hs.nursery.pid_file import limit_open_files


@pytest.fixture(autouse=True)
def hard_limit() -> Iterator[int]:
    """A process whose soft limit is below its hard one, as it usually is; both are put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] == resource.RLIM_INFINITY:
        pytest.skip("this system sets no limit")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("wanted", [0, 10**9])
def test_a_process_takes_what_the_system_allows(hard_limit: int, wanted: int) -> None:
    limit_open_files(wanted)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


def test_a_limit_of_the_administrator_is_kept_to(hard_limit: int) -> None:
    limit_open_files(hard_limit - 10)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit - 10, hard_limit)
