"""nerfstudio fields on any network of the registry."""
