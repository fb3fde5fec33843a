"""What other people's modules must keep to, so that what is measured is what they compute."""
