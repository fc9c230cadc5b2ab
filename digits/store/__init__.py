"""Store: artifacts, the model registry, and durable files.

- `artifacts`: immutable artifact directories, found by recipe
- `author`: user, machine and flow run that make a change
- `code_version`: hash over the sources and libraries that a stage uses
- `decisions`: promotion decisions as they are recorded
- `files`: atomic writes, temporary names, hashes, and the file lock
- `processor`: vector instructions, and the use of oneDNN
- `records`: JSON records that carry their own hash
- `registry`: model versions, promotions and decisions
- `sorting`: external merge sort
- `written`: which files that a user named Digits may overwrite
"""
