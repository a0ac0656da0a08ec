"""T5 over concatenated texts: linear layers see tokens only, attention pads inside buckets of similar lengths."""
