"""The derivative of a function at a point, as a linear map of products."""
