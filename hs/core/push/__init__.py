"""Push rules: which events notify which user, and how."""
