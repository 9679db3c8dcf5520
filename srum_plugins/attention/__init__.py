"""Memory-efficient attention: one contract for all adapters, its kernels, and the probe that chooses among them."""
