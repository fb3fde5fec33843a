"""Many runs: planned, launched, summed up."""
