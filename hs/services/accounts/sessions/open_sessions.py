"""Bounds on the UIA sessions that this process has begun."""

from collections import OrderedDict, deque
from typing import Final

MAX_PER_OWNER: Final = 50
MAX_OPEN: Final = 20_000
MAX_STORED: Final = 100_000
"""How many sessions may be stored at all; those of earlier lives of the process included."""


class OpenSessions:
    """The IDs of the newest sessions, by owner: a user, or an address if there is no user."""

    def __init__(self, max_per_owner: int = MAX_PER_OWNER, max_open: int = MAX_OPEN) -> None:
        self._max_per_owner = max_per_owner
        self._max_open = max_open
        # The owner that has begun a session least recently comes first.
        self._by_owner: OrderedDict[str, deque[str]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, owner: str, session_id: str) -> list[str]:
        """Add a session; return those that it replaces, which are to be deleted."""
        session_ids = self._by_owner.setdefault(owner, deque())
        self._by_owner.move_to_end(owner)
        session_ids.append(session_id)
        self._count += 1
        replaced: list[str] = []
        if len(session_ids) > self._max_per_owner:
            replaced.append(self._pop(owner))
        while self._count > self._max_open:
            replaced.append(self._pop(next(iter(self._by_owner))))
        return replaced

    def _pop(self, owner: str) -> str:
        session_ids = self._by_owner[owner]
        self._count -= 1
        oldest = session_ids.popleft()
        if not session_ids:
            del self._by_owner[owner]
        return oldest
