"""Prefect tasks: thin steps that translate between Prefect and the library, and compute nothing."""
