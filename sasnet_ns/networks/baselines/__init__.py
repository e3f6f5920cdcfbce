"""The networks that SASNet is compared with, one file a method."""
