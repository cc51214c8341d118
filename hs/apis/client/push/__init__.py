"""Push rules, pushers and notifications."""
