"""The checks of a running server from outside, for `hs doctor`."""
