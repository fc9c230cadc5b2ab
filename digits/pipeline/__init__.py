"""Pipeline: recorded training steps, promotion and tuning.

- `champion`: comparison of a model version with the champion, and the record of the promotion decision
- `config`: settings of a training run, presets, and the promotion policy
- `lineage`: artifacts that an evaluation was made from, and the facts of a model version
- `promotion`: the rule that decides on a promotion
- `recipes`: identity of the artifact of each training step
- `search`: search space, trials, proposals and pruning of a hyperparameter search
- `steps`: training steps, from the datasets to a registered model
- `study`: studies, resumable hyperparameter searches, and their results
- `study_report`: report of a study
- `training`: a whole training run, without Prefect
- `versions`: evaluation of a model on any labelled images, and export of its files
"""
