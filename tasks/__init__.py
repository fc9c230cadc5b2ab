"""Prefect tasks: calls of library functions, without computations of their own."""
