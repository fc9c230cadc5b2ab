"""Server: start, stop and inspect a local Prefect system.

- `api`: access to a configured Prefect API
- `attention`: sentences about what needs the attention of an operator
- `deployments`: registration of the deployments of prefect.yaml
- `password`: the password of a server that Digits starts
- `prefect_settings`: the settings that Prefect would use
- `reaping`: detection of runs whose process is gone
- `server_settings`: the settings of a server that Digits starts
- `services`: the server and worker processes
- `status`: the status of a system
"""
