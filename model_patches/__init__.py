"""The engine, host-free: arch -> attention -> cache -> memory -> sampler -> vae -> writer."""
