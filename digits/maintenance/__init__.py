"""Maintenance: verification, repair, backup and cleaning of an artifact root, and the state of processes.

- `archives`: archive of a backup
- `backup`: backup of an artifact root
- `doctor`: what is installed, where artifacts are, and what is wrong
- `expiry`: removal of old prediction tables and of predicted images of the inbox
- `integrity`: verification of all files under the artifact root
- `locks`: waiting for a lock for a limited time
- `processes`: state of the processes of this machine
- `repair`: repair of damaged records and artifacts
- `restore`: restoration of a backup
- `retention`: removal of unused artifacts, abandoned work and temporary files
- `tables`: prediction tables below the artifact root
"""
