"""Accounts after registration: password changes, locking, suspension, deactivation."""
