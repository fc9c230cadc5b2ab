"""Benchmarks: one command for each figure in the README and the documentation. `python -m benchmarks NAME` runs one."""
