"""Typed recipes: sections, loading, the run's plan. Never imports torch."""
