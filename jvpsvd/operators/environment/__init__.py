"""Settings of the process and the machine that products depend on."""
