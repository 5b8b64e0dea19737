"""What an application behind velvetrope imports: nothing of the service comes with it."""
