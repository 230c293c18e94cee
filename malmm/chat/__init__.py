"""The multi-turn chat."""
