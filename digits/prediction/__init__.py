"""Prediction: plan a folder, predict its shards in worker processes, and publish one table.

- `baselines`: the record beside a table with the images that its runs are compared with, and its state for display
- `config`: settings of prediction
- `incremental`: reuse and replacement of rows of an earlier table
- `limits`: time and memory limits per image
- `own_files`: which existing files a run may overwrite
- `plan`: the plan of a run: shards, part files, commit records and locks
- `planning`: listing of a folder and creation of its plan
- `pool`: the pool of worker processes
- `process`: one worker process, which may be started early
- `publish`: merging of part files and publication of the table
- `service`: prediction with a model of the registry
- `worker`: prediction of shards in a worker process
"""
