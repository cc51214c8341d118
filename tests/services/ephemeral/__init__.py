"""Tests of typing notifications, receipts and presence."""
