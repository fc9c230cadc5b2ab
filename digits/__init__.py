"""Digits: folders of pictures of handwritten digits into trustworthy CSVs.

The library below the Prefect tasks and flows: it never imports Prefect, and imports TensorFlow only where a
network is built, trained or evaluated.
"""
