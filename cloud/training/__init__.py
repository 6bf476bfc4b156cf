"""Training: build estimators, fit and fine-tune them, and gate the result."""
