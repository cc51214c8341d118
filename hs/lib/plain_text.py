"""Text from other parties made safe to display: one line, of bounded length, printable."""

# Zero-width joiners, which compound emoji and some scripts need.
_JOINERS = frozenset("\u200c\u200d")


def one_line(text: str, most_chars: int) -> str:
    """Replace white space and unprintable characters by single spaces, and truncate."""
    # The text may shrink, so read more than the limit, but not all of a text of any length.
    head = text[: most_chars * 4]
    printable = "".join(char if char.isprintable() or char in _JOINERS else " " for char in head)
    return " ".join(printable.split())[:most_chars]
