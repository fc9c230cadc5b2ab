"""Command line: the command `digits`.

- `main`: entry point, exit codes and error messages
- `commands`: the application with all commands
- `app`: option types that several commands share, the settings of a command, and its page of help
- `runtime`: project, flows, Prefect API and interruption of a command
- `output`: text, tables, JSON and the summary of a prediction on the terminal
- `train`: commands `train` and `tune`
- `models`: commands `models`, `promote` and `rollback`
- `predict`: command `predict`
- `inspect`: command `inspect`
- `review`: command `review`
- `deployed`: `predict --deploy`
- `connection`: connection of a command to the system and its Prefect API
- `system`: commands `up`, `down` and `janitor`
- `deploy`: command `deploy`, and what `up` deploys
- `status`: command `status`
- `init`: command `init`
- `drift`: commands `drift show` and `drift accept`
- `backup`: commands `backup` and `restore`
- `maintenance`: commands `doctor`, `verify` and `repair`
- `demo`: command `demo`
"""
