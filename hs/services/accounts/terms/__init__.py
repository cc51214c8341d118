"""Policy consent and captchas."""
