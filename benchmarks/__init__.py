"""Every speed claim of the README, as a script that prints it."""
