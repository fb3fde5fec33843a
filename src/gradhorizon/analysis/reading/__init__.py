"""What lies in folders of runs: members, their labels and looks, moments, provenance."""
