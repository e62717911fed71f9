"""Metrics: a journal in the run folder first, MLflow as its replica."""
