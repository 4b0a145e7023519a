"""Who this device is: its key, its certificate, and how it is enrolled."""
