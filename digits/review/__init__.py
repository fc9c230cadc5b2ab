"""Review: people label predictions, and the accuracy of a table is estimated.

- `estimates`: accuracy estimates with confidence intervals
- `inspection`: drawing of the steps from one image file to its prediction
- `sampling`: choice and order of the images to label
- `session`: a review of a table
- `spreadsheet`: export and import of labels
- `web`: web page of a review
"""
