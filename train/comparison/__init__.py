"""Runs beside each other: scores with intervals, tests of differences, tables, figures and a page."""
