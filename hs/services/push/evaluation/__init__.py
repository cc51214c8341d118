"""Evaluating the push rules of each event once."""
