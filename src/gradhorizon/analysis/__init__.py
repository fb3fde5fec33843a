"""From records to tables, figures and reports; needs neither torch nor Hydra, and no training code."""
