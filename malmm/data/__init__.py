"""Data sets: the generated world and VisDial."""
