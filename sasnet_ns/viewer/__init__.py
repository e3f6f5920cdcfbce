"""Sphere-traced pictures of a signed distance field, and the panel that controls them in nerfstudio's viewer."""
