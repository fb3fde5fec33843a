"""What is computed from profiles and outcomes: horizons, rates, decay laws, intervals over seeds."""
