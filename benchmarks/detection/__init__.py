"""The detection benchmark: weeks of labelled traffic, and what is measured on them."""
