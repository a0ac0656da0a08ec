"""What becomes of a trained model: loading it again and giving it away."""
