"""What the guard of requests catches, and whom it troubles."""
