"""Prompts judged by stored embeddings: the best candidates, an ensemble of them, and how much of it is luck."""
