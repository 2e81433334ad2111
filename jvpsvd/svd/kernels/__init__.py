"""Dense linear algebra on long blocks of a few columns and on small matrices."""
