"""Who goes through the blocks: the passes of folds, and who computes them."""
