"""Saliency: how much a new memory stands out from what is known."""
