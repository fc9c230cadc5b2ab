"""Pipeline: recorded training steps, promotion and tuning.

- `champion`: comparison of a model version with the champion, and the decision to promote it
- `config`: settings of a training run, presets, and the promotion policy
- `lineage`: artifacts behind an evaluation, and the facts of a model version
- `promotion`: the rule that decides on a promotion
- `recipes`: recipes of the artifacts that the training steps make
- `search`: search space, trials, proposals and pruning of a hyperparameter search
- `steps`: training steps, functions from artifact references to artifact references
- `study`: studies, resumable hyperparameter searches, and their results
- `study_report`: report of a study
"""
