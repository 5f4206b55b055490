"""Hundreds of runs from one file: what is searched, the processes that train, and what is kept of it."""
