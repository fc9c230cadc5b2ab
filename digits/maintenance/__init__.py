"""Maintenance: verification, repair and cleaning of an artifact root, and the state of processes.

- `integrity`: verification of all files under the artifact root
- `processes`: state of the processes of this machine
- `repair`: repair of damaged records and artifacts
- `retention`: removal of unused artifacts, abandoned work and temporary files
"""
