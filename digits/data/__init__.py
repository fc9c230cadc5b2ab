"""Training data: from a named or local dataset to checked arrays.

- `arrays`: labelled arrays: joining, splitting, dropping duplicates, oversampling
- `checks`: findings about a dataset, and an error if one is fatal
- `config`: settings of training data
- `datasets`: published, bundled and local datasets
- `degraded_digits`: digits as bad scans, photos and forms show them
- `digit_forms`: digits drawn in the forms that people use
- `downloads`: downloads of published datasets, verified by SHA-256
- `idx`: the dataset file formats IDX and NPZ
- `labels`: the append-only label log of the review
- `non_digits`: synthetic images without a digit
- `objects`: drawings of things that are no digits
- `synthetic_digits`: printed digits and three drawn forms for training
"""
