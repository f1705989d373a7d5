"""From noise to a clean block: levels, noise, and the loop over both."""
