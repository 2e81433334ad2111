"""Time, memory, errors and machine: how a solve is measured and judged."""
