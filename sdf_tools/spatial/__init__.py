"""Search structures over triangles and points: closest triangle, neighbours, winding numbers; compiled loops inside."""
