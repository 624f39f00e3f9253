"""Trained networks in use: bigger pictures, measurements, exports."""
