"""Data sets of fields: thousands of shapes fitted, kept with a table of them, and loaded again."""
