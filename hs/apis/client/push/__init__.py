"""Push rules, pushers and the list of notifications."""
