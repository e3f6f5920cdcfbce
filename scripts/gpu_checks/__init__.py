"""The sections of ``scripts/gpu_check.py``: each yields rows as they come and may fail without the others."""
