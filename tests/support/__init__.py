"""Helpers of the tests and measurements: systems, models, images, browsers, processes and injected faults."""
