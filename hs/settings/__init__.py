"""Loads homeserver.yaml: all keys are known and typed, and mistakes are reported with remedies."""
