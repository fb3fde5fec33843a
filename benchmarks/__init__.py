"""What the program itself costs, as ratios measured side by side in one process."""
