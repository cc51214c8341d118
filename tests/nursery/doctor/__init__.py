"""The checks of `hs doctor`."""
