"""The commands of `python -m extraction`, one file each. None imports torch before it runs."""
