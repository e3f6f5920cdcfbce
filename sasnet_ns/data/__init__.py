"""Shapes by name or file, and the nerfstudio datamanager that turns them into batches of signed distances."""
