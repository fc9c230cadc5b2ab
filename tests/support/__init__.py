"""Helpers of the tests and of the measurements: test systems, models, pictures, browsers and campaigns of faults."""
