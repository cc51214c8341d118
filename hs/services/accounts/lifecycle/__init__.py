"""What happens to an account after registration: password changes, locking, deactivation."""
