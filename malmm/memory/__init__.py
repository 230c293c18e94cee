"""The long-term memory: what was shown and told, kept on disk across conversations."""
