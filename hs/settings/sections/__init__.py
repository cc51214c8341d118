"""The sections of homeserver.yaml: one attrs class for each subject."""
