"""Outputs: tables, summaries, pages and reports.

- `drawing`: contact sheets, bars and heat maps, drawn with Pillow
- `frame`: tables as pandas DataFrames
- `model_report`: the report of a model version
- `page`: building blocks of HTML pages, markdown and figures
- `run_reports`: markdown reports of promotion decisions
- `prediction_report`: the page beside a table, and its markdown for the Prefect UI
- `skipped`: sentences about the files without a row
- `summary`: the summary of a predicted folder
- `table`: reading and writing tables as CSV, Parquet and JSON lines
- `table_diff`: differences between the tables of two versions
- `version_tables`: model versions and promotions as rows
"""
