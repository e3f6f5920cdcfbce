"""The paper's tables and figures: rows from configs/, cached runs, tables beside the paper's numbers."""
