"""The one loop, what it is built from, and the worker that runs it."""
