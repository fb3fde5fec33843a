"""What a figure declares of a recorded quantity, and what is made of it: medians over seeds, a figure, a section."""
