"""What figures share: their look, their scales, lines of theory, spectra over seeds, and how files are written."""
