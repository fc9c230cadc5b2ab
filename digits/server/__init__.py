"""Server: start, stop and inspect a local Prefect system.

- `api`: access to a configured Prefect API, and reading in pages
- `attention`: sentences about what needs the attention of an operator
- `automations`: the automations of deploy/automations.yaml
- `crashes`: on-demand runs that crashed, and the commands that continue them
- `dead_runs`: detection of runs that nobody works on
- `deployment_record`: what was last deployed to a server
- `deployments`: comparison of prefect.yaml with a server, and its deployment
- `logs`: rotation of the services' logs
- `merging`: which values a redeployment keeps
- `metrics`: the status of a system in the text format of Prometheus
- `notifications`: the block that sends notifications
- `observation`: the facts about a system
- `password`: the password of a server that Digits starts
- `prefect_settings`: the settings that Prefect would use
- `queries`: what a server knows about deployments, runs, work pools and workers
- `server_settings`: the settings of a server that Digits starts
- `services`: the server and worker processes
- `status`: the status of a system
- `tables`: the latest tables of an artifact root
"""
