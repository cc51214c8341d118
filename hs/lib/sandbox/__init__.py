"""The sandbox: functions on untrusted input run in separate processes with limits."""
