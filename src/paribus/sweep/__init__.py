"""Many runs: an ablation handed to the sweeper, its runs several at a time, and where they stand."""
