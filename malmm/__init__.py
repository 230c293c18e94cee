"""Stage 2: a dialogue model that remembers through memory banks."""
