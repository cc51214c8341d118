"""Former place of hs.core.streams, until every import names that."""

from hs.core.stream_def import *  # noqa: F403 - goes when no module imports it any more
from hs.core.streams import *  # noqa: F403 - goes when no module imports it any more
