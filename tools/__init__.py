"""Maintenance scripts: `python -m tools.NAME` runs one.

- audit: known vulnerabilities of the locked distributions
- compare_versions: comparison of the results of two versions of Digits
- licences: the page of the dependencies' licences
- locked: reader of requirements.lock
- make_sample: the bundled sample of MNIST
- screenshots: the screenshots of the documentation
- structure: figures of the code's structure
"""
