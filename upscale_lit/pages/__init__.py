"""HTML pages that show pictures. They need no network and no server."""
