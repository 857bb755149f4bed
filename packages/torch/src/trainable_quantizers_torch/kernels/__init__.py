"""The fused fake-quantize operation and related kernels."""
