"""Consent to the terms of use, and captchas."""
