"""Tokenizer, its vocabulary, and the token cache on disk."""
