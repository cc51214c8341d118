"""The processes that announce themselves, and whether they have the same shared settings."""

import logging

import attrs
import trio

HEARD_S = 30.0  # several announcements; a process that was not heard for longer is gone
_MAX_INSTANCES = 1000

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class AnnouncedProcesses:
    """The other processes that were heard of, with the digests of their shared settings.

    `own` is the digest of this process.
    """

    own: str
    _digests: dict[str, str] = attrs.field(factory=dict, init=False)
    _heard_at: dict[str, float] = attrs.field(factory=dict, init=False)

    @property
    def names(self) -> list[str]:
        """The names of the processes that run."""
        limit = trio.current_time() - HEARD_S
        return sorted(name for name, heard_at in self._heard_at.items() if heard_at >= limit)

    @property
    def differing(self) -> list[str]:
        """The names of the processes that run with other settings."""
        return [name for name in self.names if self._digests[name] != self.own]

    def note(self, instance: str, digest: str) -> None:
        """Note what a process announced; log when it begins or ceases to differ."""
        if instance not in self._digests and len(self._digests) >= _MAX_INSTANCES:
            return
        before = self._digests.get(instance, self.own)
        self._digests[instance] = digest
        self._heard_at[instance] = trio.current_time()
        if digest == before:
            return
        if digest != self.own:
            log.warning(
                "process %s has other shared settings than this one; `hs topology` names the keys",
                instance,
            )
        else:
            log.info("process %s has the same shared settings again", instance)
