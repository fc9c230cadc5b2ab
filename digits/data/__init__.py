"""Training data: from a named or local dataset to checked arrays.

- `arrays`: labelled arrays: joining, splitting, removing duplicates
- `checks`: findings about a dataset, and the refusal of an unsound one
- `config`: settings of training data
- `datasets`: named and local datasets
- `downloads`: downloads verified by hash
- `idx`: the IDX file format of MNIST
- `labels`: the append-only log of labels that people gave
- `non_digits`: synthetic pictures that show no digit
- `synthetic_digits`: printed and drawn digits for training
"""
