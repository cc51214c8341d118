"""Access of other servers to rooms, and what else the subjects of federation share."""
