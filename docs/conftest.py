"""What pytest leaves alone: code that only the build of the site runs."""

collect_ignore = ["conf.py", "_build", "_extensions", "figures"]
