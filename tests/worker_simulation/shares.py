"""How slots are shared out in a simulation: as in production, but the rooms move when told to."""

from collections.abc import Collection, Sequence

import attrs

from hs.repl.slots.assignment import balanced, slot_of


@attrs.define(eq=False)
class Shares:
    """The processes to which the slots of rooms belong; the others stay as they are shared out."""

    _slots: list[int] = attrs.Factory(list)
    _turns: int = 0

    def add(self, room_id: str) -> None:
        """Add a room."""
        self._slots.append(slot_of(room_id))

    def turn(self) -> None:
        """From now on, the slot of each room belongs to the next process."""
        self._turns += 1

    def balanced(self, holders: Sequence[str], candidates: Collection[str]) -> list[str]:
        """Return the holders after the slots were shared out; see `assignment.balanced`."""
        after = balanced(holders, candidates)
        if self._turns:
            ranked = sorted(candidates)
            for number, slot in enumerate(self._slots):
                after[slot] = ranked[(number + self._turns) % len(ranked)]
        return after
