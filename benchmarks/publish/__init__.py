"""Records of results, and the tables, figures and README sections written from them."""
