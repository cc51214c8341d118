"""Previews of links."""
