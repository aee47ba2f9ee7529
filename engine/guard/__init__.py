"""What an energy data provider installs: it asks before every share, and knows what to do when nobody answers."""
