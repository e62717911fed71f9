"""Commit, choose, restore and keep checkpoints; what a folder must hold to be one."""
