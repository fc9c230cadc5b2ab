"""Maintenance: retention, integrity, repair and processes.

- `integrity`: verification of every file below the artifact root
- `processes`: processes of this machine
- `repair`: regenerating damaged artifacts
- `retention`: removal of what nothing refers to any more
"""
