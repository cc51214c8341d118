"""Endpoints for application services, and third-party networks."""
