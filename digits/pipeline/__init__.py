"""Pipeline: recorded training steps, promotion and tuning.

- `champion`: comparison of a challenger with the champion, and its promotion
- `config`: presets, recommended values, and the promotion policy
- `lineage`: the artifacts behind an evaluation
- `promotion`: the promotion rule
- `recipes`: what each step's artifact is made from
- `search`: hyperparameter search: spaces, trials, pruning
- `steps`: the steps of training over the artifact store
- `study`: studies of trials, and their conclusion
- `study_report`: the report of a study
"""
