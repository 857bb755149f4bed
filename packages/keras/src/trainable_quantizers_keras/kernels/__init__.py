"""The fused operation of fake quantization and its fast paths."""
