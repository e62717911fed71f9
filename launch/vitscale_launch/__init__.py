"""Runs recipes as jobs on Ray. The only place that imports ray, and only once a job really starts."""
