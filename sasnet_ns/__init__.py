"""SASNet for nerfstudio: spatially-adaptive sinusoidal networks as signed distance and density fields."""

__version__ = "0.1.0"
