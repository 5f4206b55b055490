"""What smaller features cost: the same model trained on several feature sets."""
