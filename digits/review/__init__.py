"""Review: people label predictions, and the accuracy of a table is estimated.

- `estimates`: accuracy estimates with confidence intervals
- `inspection`: how one image is read and predicted, as a picture
- `sampling`: which images to show first
- `session`: a review of a table
- `spreadsheet`: labels in a spreadsheet
- `web`: the web page of a review
"""
