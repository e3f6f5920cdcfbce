"""Pictures of shapes and fields: ray casting, rendering, scenes, textures, plots."""
