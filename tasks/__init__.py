"""The Prefect steps: thin, they translate between Prefect and the library, and compute nothing."""
