"""The one loop, what it minimises, its plan, and the hardware that it runs on."""
