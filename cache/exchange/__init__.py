"""Features from and for other tools: import, export, and the data sets and tables of other frameworks."""
