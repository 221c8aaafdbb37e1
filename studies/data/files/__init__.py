"""The source `"files"`: its keys, its tables in parquet, CSV or RecBole files, and how their rows are cleaned."""
