"""Server: start, stop and inspect a local Prefect system.

- `api`: whether a Prefect API is configured and answers
- `attention`: what needs attention, one sentence each
- `deployments`: registering what prefect.yaml declares
- `reaping`: setting runs to Crashed whose process is gone
- `services`: the server and worker processes
- `status`: the state of a system
"""
