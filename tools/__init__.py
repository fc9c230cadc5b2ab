"""Maintenance scripts: the lock and its licences, known vulnerabilities, the sample of MNIST, the screenshots."""
