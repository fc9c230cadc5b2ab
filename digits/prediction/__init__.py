"""Prediction: plan a folder, predict its shards in worker processes, publish one table.

- `config`: settings of prediction
- `incremental`: reuse of rows from an earlier table
- `limits`: limits of time and memory per image
- `plan`: the plan of a run: shards, part files, locks
- `planning`: listing a folder and creating its plan
- `pool`: the pool of worker processes
- `publish`: merging part files and publishing the table
- `service`: prediction with a registered model
- `worker`: the worker process
"""
