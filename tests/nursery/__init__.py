"""Tests of starting, running and stopping a process."""
