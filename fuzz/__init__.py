"""Fuzzing: every decoder of what comes from outside, with inputs that nobody meant to send. `python -m fuzz`."""
