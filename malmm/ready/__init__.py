"""What evaluate.py needs of each kind of data: a model and a split that belong together."""
