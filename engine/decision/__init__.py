"""May this EDP share this? Pure functions, time passed in."""
