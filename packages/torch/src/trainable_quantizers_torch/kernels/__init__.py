"""The fused fake-quantize operation and its fast paths."""
