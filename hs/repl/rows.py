"""Former place of the rows in hs.core.streams, until every import names that."""

from hs.core.streams import *  # noqa: F403 - goes when no module imports it any more
