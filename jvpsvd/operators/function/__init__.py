"""The function to differentiate: what it takes, how it is evaluated, why it may fail."""
