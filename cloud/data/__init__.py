"""Data: read CSV and Parquet, check it against the feature set, keep immutable parts."""
