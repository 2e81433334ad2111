"""Dense linear algebra on tall blocks and small matrices."""
