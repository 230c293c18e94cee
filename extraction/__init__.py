"""Stage 1: a frozen ImageBind turns pictures and texts into embeddings on disk."""
