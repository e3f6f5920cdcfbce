"""nerfstudio models, pipeline and trainer."""
