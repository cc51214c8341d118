"""Profiles of users and who may see and change them."""
