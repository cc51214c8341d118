"""hs, a Matrix homeserver on structured concurrency."""

__version__ = "0.1.0"
