"""Datasets: the generated mini world and VisDial."""
