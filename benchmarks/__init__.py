"""Measured claims: every number in the README and the docs is printed by a command here."""
