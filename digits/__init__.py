"""Digits: folders of handwritten-digit images as tables, and the model behind them kept up to date.

The library below the Prefect tasks and flows, in ten packages; `digits.cli` is the command, and `digits.server` a local
Prefect system. docs/architecture.md describes them.
"""
