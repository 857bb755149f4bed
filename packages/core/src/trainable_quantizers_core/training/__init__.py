"""What accompanies training."""
