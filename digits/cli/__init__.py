"""The command `digits`, one module per command group.

- `main`: entry point and error handling
"""
