"""Workers: how a launch starts them, keeps their number, and stops them."""
