"""Scores of a trained model: held-out accuracy, few-shot transfer, curves and summaries."""
