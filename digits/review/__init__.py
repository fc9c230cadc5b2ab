"""Review: labels by people for the images of a table, and estimates of the accuracy of the table.

- `estimates`: accuracy estimates with confidence intervals
- `inspection`: the steps from one image file to its prediction, as a drawing
- `sampling`: choice and order of the images to label
- `session`: the review of one table
- `spreadsheet`: export and import of labels
- `web`: the server of a review's web page
"""
