"""Weights of other projects in and out: names, layouts, what a format can say, and the files themselves."""
