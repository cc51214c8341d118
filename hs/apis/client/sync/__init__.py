"""/sync, sliding sync, and the deprecated endpoints that /sync has replaced."""
