"""How far the results of the evaluation are stored, and the results that may not be stored yet.

The evaluating process announces results on the stream `unread` before it stores them. Each row
carries the position in this stream up to which everything is stored; rows above it are held here,
so that what is read from the database can be completed with them.
"""

from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

import trio

from hs.core.errors import ProcessUnavailable
from hs.core.ids import RoomID, UserID
from hs.core.positions import VectorPosition
from hs.core.streams import Unread, UnreadRow
from hs.lib.state_machine import StateMachine
from hs.repl.calls.reply import RpcFailed
from hs.services.push.evaluation.evaluation_duty import EvaluationStore
from hs.services.push.unread.progress_states import TRANSITIONS, ProgressEvent, ProgressState
from hs.storage.database import Database, DatabaseUnavailable
from hs.storage.push import push_rules as storage

GUESS_S: Final = 5.0
"""How long a guess is used before the evaluating process is asked again."""

_GUESSES: Final = (ProgressState.GUESSED, ProgressState.EXPIRED)


class StoredProgress:
    """The stored progress as one process knows it.

    `position` is a position of the events stream: the results of all events up to it are in the
    database.
    """

    def __init__(self, database: Database, store: EvaluationStore) -> None:
        self.position = VectorPosition()
        self._database = database
        self._store = store
        self._states = StateMachine(TRANSITIONS, ProgressState.UNKNOWN)
        self._guessed_until_s = 0.0
        self._unstored: deque[tuple[int, UnreadRow]] = deque()

    @property
    def is_known(self) -> bool:
        """Whether the evaluating process has told its progress."""
        return self._states.state is ProgressState.KNOWN

    async def learn(self) -> bool:
        """Have the evaluating process store its results, or read the stored position.

        Return whether everything derived from earlier progress must be dropped: it was a guess, or
        results are stored of which this process has not been told.
        """
        if self._states.state is ProgressState.GUESSED:
            if trio.current_time() < self._guessed_until_s:
                return False
            self._states.handle(ProgressEvent.EXPIRED)
        try:
            progress = await self._store.flush()
        except (ProcessUnavailable, RpcFailed, DatabaseUnavailable):
            return await self._guess()
        was_guess = self._states.state in _GUESSES
        self._states.handle(ProgressEvent.ANSWERED)
        self._advance(progress.evaluated)
        self._note_stored(progress.stored)
        return was_guess

    async def _guess(self) -> bool:
        """While no process evaluates, or none can store, use the stored position.

        Return whether that is beyond what this process knew.
        """
        stored = await self._database.read(storage.load_position)
        is_first, before = self._states.state is ProgressState.UNKNOWN, self.position
        self._states.handle(ProgressEvent.UNREACHABLE)
        self._guessed_until_s = trio.current_time() + GUESS_S
        if stored is not None:
            self._advance(stored)
        return not is_first and self.position != before

    def add(self, position: int, row: UnreadRow) -> None:
        """Note a row of the stream `unread`."""
        self._unstored.append((position, row))
        self._note_stored(row.stored)

    def reset(self) -> None:
        """Forget everything, as the evaluation began anew and announces unstored results again."""
        self._states.handle(ProgressEvent.RESET)
        self._unstored.clear()
        self.position = VectorPosition()

    def unstored_notifications(self, room_id: RoomID) -> list[Unread]:
        """List the notifications of a room that may not be stored yet, in ascending order."""
        return [
            unread
            for _, row in self._unstored
            for unread in row.unread
            if unread.room_id == room_id
        ]

    def unstored_marks(self, user_id: UserID) -> list[tuple[str, str, str, int]]:
        """List a user's marks that may not be stored yet."""
        return [mark for _, row in self._unstored for mark in row.marks if mark[0] == user_id]

    def has_unstored_removal(self, room_ids: Collection[RoomID]) -> bool:
        """Whether the database may still count redacted events of some rooms."""
        rooms = set[str](room_ids)
        return any(room_id in rooms for _, row in self._unstored for room_id, _ in row.removed)

    def has_unstored_notification(self, floors: Mapping[str, int]) -> bool:
        """Whether the database may lack notifications of rooms up to their floors."""
        return any(
            unread.stream_id <= floors.get(unread.room_id, 0)
            for _, row in self._unstored
            for unread in row.unread
        )

    def _advance(self, evaluated: str) -> None:
        self.position = self.position.merge(VectorPosition.parse(evaluated))

    def _note_stored(self, stored: int) -> None:
        while self._unstored and self._unstored[0][0] <= stored:
            _, row = self._unstored.popleft()
            self.position = self.position.advance(row.writer, row.upto)
