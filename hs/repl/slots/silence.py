"""Which processes have given no sign of life for long."""

from collections.abc import Collection, Iterable

import attrs

from hs.storage.stream_slots import Beat


@attrs.define(eq=False)
class Silence:
    """How long each process has been silent, by the clock of this process.

    Only the time between looks that found nothing new counts, `max_step_s` for each at most: while
    this process was stopped, or the database away, the others may have had no way to be heard.
    Their clocks do not matter, nor does that of the database.
    """

    max_step_s: float
    last: dict[str, Beat] = attrs.field(factory=dict, init=False)
    _silent_s: dict[str, float] = attrs.field(factory=dict, init=False)
    _looked_at: float | None = attrs.field(default=None, init=False)

    def look(self, beats: Collection[Beat], holders: Iterable[str], now: float) -> None:
        """Note the latest signs of life, and the processes of which there should be some."""
        step_s = 0.0 if self._looked_at is None else min(now - self._looked_at, self.max_step_s)
        self._looked_at = now
        heard = {beat.instance: beat for beat in beats}
        for name in {*heard, *holders, *self._silent_s}:
            beat, before = heard.get(name), self.last.get(name)
            is_new = beat is not None and beat != before
            if beat is None:
                self.last.pop(name, None)
            else:
                self.last[name] = beat
            self._silent_s[name] = 0.0 if is_new else self._silent_s.get(name, 0.0) + step_s

    def silent_s(self, name: str) -> float:
        """Return for how long a process has been silent."""
        return self._silent_s.get(name, 0.0)

    def candidates(self, stream: str, within_s: float) -> set[str]:
        """Return the processes that were heard of within a time, and take slots of a stream."""
        return {
            name
            for name, beat in self.last.items()
            if stream in beat.streams and not beat.is_leaving and self.silent_s(name) < within_s
        }
