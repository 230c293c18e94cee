"""The networks: memory bank, Q-Former, language model, dialogue model."""
