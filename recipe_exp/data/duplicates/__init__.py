"""Near-duplicates among millions of recipes: shingles, MinHash keys, and clusters by exact Jaccard similarity."""
