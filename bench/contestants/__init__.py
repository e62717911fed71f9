"""Processes of the loader bench, one loader each: they read the same JPEGs and print images per CPU-second."""
