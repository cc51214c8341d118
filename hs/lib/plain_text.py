"""Text of others made safe to show: one line, bounded, nothing invisible but what joins letters."""

# Emoji of several parts and some scripts need these.
_JOINERS = frozenset("\u200c\u200d")


def one_line(text: str, most_chars: int) -> str:
    """Join the words of a text by single spaces, up to a number of characters."""
    # What is collapsed may be long; what is far beyond the bound is not even looked at.
    seen = text[: most_chars * 4]
    kept = "".join(char if char.isprintable() or char in _JOINERS else " " for char in seen)
    return " ".join(kept.split())[:most_chars]
